package raftnode

// NewHclog lets tests write to the adapter directly.
var NewHclog = newHclog
