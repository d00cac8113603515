package basestream

// ParsePart reads the announcement of an archive.
func ParsePart(b []byte) (Part, error) { return parsePart(b) }
