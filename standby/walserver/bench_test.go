package walserver_test

import (
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"

	"understudy/shipper/pos"
)

// One small commit at a time: from the log's growth to the bytes at the
// client.
func BenchmarkServe_Latency(b *testing.B) {
	log := memLog(segSize, segSize)
	n := serve(b, log, state(oneTimeline), nil)
	c := connect(b, n)
	c.start("START_REPLICATION 0/1000000 TIMELINE 1")
	b.ReportAllocs()
	end := pos.LSN(segSize)
	for b.Loop() {
		end += 120
		log.setEnd(end)
		for got := false; !got; {
			m, err := c.receive()
			d, ok := m.(*pgproto3.CopyData)
			if !ok {
				b.Fatalf("%T %v", m, err)
			}
			got = d.Data[0] == 'w'
		}
	}
}
