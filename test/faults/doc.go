// Package faults holds the fault campaign: one group of real daemons and real
// PostgreSQL servers, each node on a network of its own, lives through round
// after round of random faults, under writers and readers. After each round it
// must be healthy again, by itself, with every acknowledged row.
//
// A round is chosen by a seed and its number, so that it can be repeated alone:
//
//	make faults ROUNDS=200 SEED=7
//	make faults ROUNDS=1 SEED=7 FROM=31
//
// Clocks are not stepped: a test must not set the machine's, and nodes on one
// machine have only that.
package faults
