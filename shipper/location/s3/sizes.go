package s3

import "fmt"

// The bounds of S3.
const (
	maxParts    = 10000
	minPart     = 5 << 20 // of all parts but the last
	maxObject   = int64(5) << 40
	firstPart   = int64(8) << 20
	largestPart = int64(64) << 20
)

// tier is a stretch of part numbers with parts of one size.
type tier struct {
	upTo int // last part number
	size int64
}

// tiers are the sizes of parts of an object of unknown size: small objects
// need little memory, and 10,000 parts hold 461 GiB.
func tiers() []tier {
	return []tier{{1000, firstPart}, {2000, 2 * firstPart}, {4000, 4 * firstPart}, {maxParts, largestPart}}
}

// partSize is the size of part number, of an object that has done bytes in the
// parts before and total in all, -1 when that is not known. 0 says that the
// object cannot be completed.
func partSize(number int, done, total int64) int64 {
	if number > maxParts {
		return 0
	}
	if total < 0 {
		for _, t := range tiers() {
			if number <= t.upTo {
				return t.size
			}
		}
	}
	left, parts := total-done, int64(maxParts-number+1)
	size := max(firstPart, (left+parts-1)/parts)
	size = (size + blockSize - 1) / blockSize * blockSize
	if size > largestPart {
		return 0
	}
	return size
}

// errTooLarge is the error for an object that cannot be completed.
func errTooLarge(total int64) error {
	if total < 0 {
		return fmt.Errorf("an object of unknown size cannot be larger than %d GiB here", unknownMax()>>30)
	}
	return fmt.Errorf("an object cannot be larger than %d GiB here: it has %d bytes", maxParts*largestPart>>30, total)
}

// unknownMax is the size that the tiers hold together.
func unknownMax() int64 {
	var sum int64
	last := 0
	for _, t := range tiers() {
		sum += int64(t.upTo-last) * t.size
		last = t.upTo
	}
	return sum
}
