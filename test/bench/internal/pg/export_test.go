package pg

var ParseBench = parseBench
