package sftp

import (
	"strings"
	"testing"
)

func TestConfig_Validate(t *testing.T) {
	const host = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl"
	for name, c := range map[string]struct {
		change func(*Config)
		want   string // part of the error
	}{
		"NoAddress":        {func(c *Config) { c.Address = "" }, "address"},
		"NoRoot":           {func(c *Config) { c.Root = "" }, "root"},
		"NoHostKey":        {func(c *Config) { c.HostKey = "" }, "host key must be given"},
		"OnlyComments":     {func(c *Config) { c.HostKey = "# any\n\n" }, "host key must be given"},
		"AnyHostKey":       {func(c *Config) { c.HostKey = "*" }, "neither a line"},
		"CertAuthority":    {func(c *Config) { c.HostKey = "@cert-authority * " + host }, "not understood"},
		"ShortFingerprint": {func(c *Config) { c.HostKey = "SHA256:abc" }, "neither a line"},
		"NoKey":            {func(c *Config) { c.Key = nil }, "private key must be given"},
		"BadKey":           {func(c *Config) { c.Key = []byte("x") }, "read the private key"},
		"ManyConnections":  {func(c *Config) { c.Connections = 17 }, "connections"},
		"NegativeTime":     {func(c *Config) { c.KeepAlive = -1 }, "negative"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := Config{Address: "h", User: "u", Root: "/r", HostKey: host, Key: []byte("k")}
			c.change(&cfg)
			if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want something about %q", err, c.want)
			}
		})
	}
}

func TestMark_RoundTrip(t *testing.T) {
	for _, n := range []int64{0, 1, 255 << 10, 1 << 40, 1<<63 - 1} {
		if got, ok := parseMark(formatMark(n)); !ok || got != n {
			t.Errorf("%d: got %d, %v", n, got, ok)
		}
	}
}

// A mark is what formatMark wrote, to the last bit.
func FuzzParseMark(f *testing.F) {
	f.Add(formatMark(0))
	f.Add(formatMark(123456789))
	f.Add([]byte("00000000000000000001 00000000\n"))
	f.Add([]byte("                  -1 00000000\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		n, ok := parseMark(b)
		if ok && (n < 0 || string(formatMark(n)) != string(b)) {
			t.Errorf("%q was read as %d", b, n)
		}
	})
}

// Whatever is given as a host key, either it names keys or it is refused.
func FuzzParseKnown(f *testing.F) {
	f.Add("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl")
	f.Add("|1|abc=|def= ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl note")
	f.Add("SHA256:+DiY3wvvV6TuJJhbpZisF/zLDA0zPMSvHdkr4UvCOqU\n# comment")
	f.Add("@revoked x")
	f.Fuzz(func(t *testing.T, text string) {
		k, err := parseKnown(text)
		if err == nil && len(k.keys)+len(k.prints) == 0 {
			t.Errorf("%q was taken and names no key", text)
		}
		if err == nil && len(k.offers()) == 0 {
			t.Errorf("%q asks for no kind of key", text)
		}
	})
}
