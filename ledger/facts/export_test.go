package facts

// FrameExport puts the frame of an export around a body.
func FrameExport(body []byte) []byte { return frameExport(body) }

// ExportBody is the body of an export.
func ExportBody(b []byte) []byte {
	return b[len(exportHead) : len(b)-64-len(exportMid)-len(exportTail)]
}
