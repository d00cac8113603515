//go:build !race

package guard_test

// raceDetector tells that memory is no measure of the guard's own.
const raceDetector = false
