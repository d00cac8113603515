package sftp_test

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"understudy/shipper/location"
	"understudy/test/backupservers"
)

const benchSize = 128 << 20

// BenchmarkPut compares an upload of unknown size with scp and sftp of the same
// bytes through the same proxy, next door and 50 ms away. Ours includes the
// flush to the server's disk, theirs has none.
func BenchmarkPut(b *testing.B) {
	s := backupservers.NewSSHD(b)
	body := noise(benchSize)
	for _, delay := range []time.Duration{0, 25 * time.Millisecond} {
		p := backupservers.NewProxy(b, s.Address, delay)
		for _, conns := range []int{1, 2, 4} {
			b.Run(fmt.Sprintf("RoundTrip=%s/Connections=%d", 2*delay, conns), func(b *testing.B) {
				cfg := configOf(s)
				cfg.Address, cfg.Connections, cfg.KeepAlive = p.Address, conns, 0
				l := open(b, cfg)
				b.SetBytes(benchSize)
				for b.Loop() {
					// As a stream comes, in pieces.
					u, err := l.Create(b.Context(), "k", location.CreateOptions{Size: -1})
					if err != nil {
						b.Fatal(err)
					}
					for at := 0; at < benchSize; at += 128 << 10 {
						if _, err := u.Write(body[at : at+128<<10]); err != nil {
							b.Fatal(err)
						}
					}
					if _, err := u.Commit(b.Context()); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
		for _, tool := range []string{"scp", "sftp"} {
			b.Run(fmt.Sprintf("RoundTrip=%s/%s", 2*delay, tool), func(b *testing.B) { benchTool(b, s, p, tool, body) })
		}
	}
}

func benchTool(b *testing.B, s *backupservers.SSHD, p *backupservers.Proxy, tool string, body []byte) {
	dir := b.TempDir()
	file, key, batch := filepath.Join(dir, "file"), filepath.Join(dir, "key"), filepath.Join(dir, "batch")
	target := filepath.Join(s.Dir, tool)
	for name, body := range map[string][]byte{file: body, key: s.Key, batch: []byte("put " + file + " " + target + "\n")} {
		if err := os.WriteFile(name, body, 0o600); err != nil {
			b.Fatal(err)
		}
	}
	_, port, _ := strings.Cut(p.Address, ":")
	args := []string{"-q", "-i", key, "-P", port, "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"}
	if tool == "scp" {
		args = append(args, file, s.User+"@127.0.0.1:"+target)
	} else {
		args = append(args, "-b", batch, s.User+"@127.0.0.1")
	}
	b.SetBytes(benchSize)
	for b.Loop() {
		if out, err := exec.Command(tool, args...).CombinedOutput(); err != nil {
			b.Fatalf("%s: %v\n%s", tool, err, out)
		}
	}
}

// BenchmarkGet reads an object whole.
func BenchmarkGet(b *testing.B) {
	s := backupservers.NewSSHD(b)
	put(b, open(b, configOf(s)), "k", noise(benchSize))
	for _, delay := range []time.Duration{0, 25 * time.Millisecond} {
		p := backupservers.NewProxy(b, s.Address, delay)
		for _, conns := range []int{1, 4} {
			b.Run(fmt.Sprintf("RoundTrip=%s/Connections=%d", 2*delay, conns), func(b *testing.B) {
				cfg := configOf(s)
				cfg.Address, cfg.Connections, cfg.KeepAlive = p.Address, conns, 0
				l := open(b, cfg)
				b.SetBytes(benchSize)
				for b.Loop() {
					r, err := l.Open(b.Context(), "k", 0, -1)
					if err != nil {
						b.Fatal(err)
					}
					if n, err := io.Copy(io.Discard, r); n != benchSize || err != nil {
						b.Fatal(n, err)
					}
					r.Close()
				}
			})
		}
	}
}
