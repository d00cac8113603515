package tunnel_test

import (
	"bytes"
	"encoding/binary"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgproto3"

	"understudy/shipper/tunnel"
)

const (
	sslRequest = "\x00\x00\x00\x08\x04\xd2\x16\x2f"
	gssRequest = "\x00\x00\x00\x08\x04\xd2\x16\x30"
	cancel     = "\x00\x00\x00\x10\x04\xd2\x16\x2e\x00\x00\x00\x01\x00\x00\x00\x02"
)

// talk is a client whose words are known beforehand.
type talk struct {
	io.Reader
	io.Writer
}

// packet frames a body that no encoder would make.
func packet(version uint32, body string) string {
	b := binary.BigEndian.AppendUint32(nil, uint32(8+len(body)))
	return string(binary.BigEndian.AppendUint32(b, version)) + body
}

func TestStartup_Forward(t *testing.T) {
	ours := map[string]string{"user": "rewinder", "database": "ours"}
	with := func(pairs ...string) map[string]string {
		m := map[string]string{"user": "rewinder", "database": "ours"}
		for i := 0; i < len(pairs); i += 2 {
			m[pairs[i]] = pairs[i+1]
		}
		return m
	}
	const v = pgproto3.ProtocolVersion30
	for name, tt := range map[string]struct {
		in   string
		want map[string]string // nil when refused
		err  string
		back string // answers to encryption requests
	}{
		"Superuser":      {in: packet(v, "user\x00postgres\x00database\x00postgres\x00\x00"), want: ours},
		"NoUser":         {in: packet(v, "\x00"), want: ours},
		"Wishes":         {in: packet(v, "application_name\x00pg_rewind\x00client_encoding\x00UTF8\x00\x00"), want: with("application_name", "pg_rewind", "client_encoding", "UTF8")},
		"Options":        {in: packet(v, "options\x00-c session_replication_role=replica\x00search_path\x00evil\x00role\x00postgres\x00\x00"), want: ours},
		"Newer":          {in: packet(v+2, "_pq_.x\x001\x00\x00"), want: ours},
		"OtherCase":      {in: packet(v, "USER\x00postgres\x00\x00"), want: ours},
		"SSL":            {in: sslRequest + packet(v, "\x00"), want: ours, back: "N"},
		"SSLThenGSS":     {in: sslRequest + gssRequest + packet(v, "\x00"), want: ours, back: "NN"},
		"SSLForEver":     {in: sslRequest + gssRequest + sslRequest + packet(v, "\x00"), err: "too many encryption requests", back: "NNN"},
		"LongSSL":        {in: packet(80877103, "x"), err: "encryption request of 9 bytes"},
		"Cancel":         {in: cancel, err: "cancel requests are not passed on"},
		"Replication":    {in: packet(v, "replication\x00true\x00\x00"), err: "replication connections are not passed on"},
		"Logical":        {in: packet(v, "replication\x00database\x00\x00"), err: "replication connections are not passed on"},
		"NoReplication":  {in: packet(v, "replication\x00false\x00\x00"), err: "replication connections are not passed on"},
		"Twice":          {in: packet(v, "user\x00a\x00user\x00b\x00\x00"), err: `names parameter "user" twice`},
		"Hidden":         {in: packet(v, "\x00user\x00postgres\x00\x00"), err: "bytes after its end"},
		"SecondStartup":  {in: packet(v, "user\x00a\x00\x00"+packet(v, "\x00")), err: "bytes after its end"},
		"NoValue":        {in: packet(v, "user\x00"), err: "without a value"},
		"NoEnd":          {in: packet(v, "user\x00a\x00"), err: "has no end"},
		"Empty":          {in: packet(v, ""), err: "has no end"},
		"Old":            {in: packet(2<<16, "\x00"), err: "unsupported frontend protocol 2.0"},
		"Huge":           {in: "\x00\x00\x27\x11\x00\x03\x00\x00", err: "claims 10001 bytes"},
		"Negative":       {in: "\xff\xff\xff\xff\x00\x03\x00\x00", err: "claims 4294967295 bytes"},
		"Small":          {in: "\x00\x00\x00\x07\x00\x03\x00\x00", err: "claims 7 bytes"},
		"Cut":            {in: packet(v, "user\x00a\x00\x00")[:12], err: "unexpected EOF"},
		"Nothing":        {in: "", err: "EOF"},
		"HTTP":           {in: "GET / HTTP/1.1\r\n\r\n", err: "claims 1195725856 bytes"},
		"Grown":          {in: packet(v, "application_name\x00"+strings.Repeat("x", tunnel.MaxStartup-27)+"\x00\x00"), err: "startup message would have 10028 bytes"},
		"AsLongAsItGets": {in: packet(v, "options\x00"+strings.Repeat("x", tunnel.MaxStartup-18)+"\x00\x00"), want: ours},
	} {
		t.Run(name, func(t *testing.T) {
			var back bytes.Buffer
			_, forward, err := tunnel.Startup(talk{strings.NewReader(tt.in), &back}, "rewinder", "ours")
			if back.String() != tt.back {
				t.Errorf("answered %q, want %q", back.String(), tt.back)
			}
			if tt.want == nil {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("got error %v, want %q", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			m, err := pgproto3.NewBackend(bytes.NewReader(forward), io.Discard).ReceiveStartupMessage()
			if err != nil {
				t.Fatal(err)
			}
			want := &pgproto3.StartupMessage{ProtocolVersion: pgproto3.ProtocolVersion30, Parameters: tt.want}
			if diff := cmp.Diff(want, m); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestStartup_BadName shows that a configured name cannot smuggle parameters
// in either.
func TestStartup_BadName(t *testing.T) {
	_, _, err := tunnel.Startup(talk{bytes.NewReader(plain(t)), io.Discard}, "rewinder\x00database\x00other", "ours")
	if err == nil || !strings.Contains(err.Error(), "NUL") {
		t.Errorf("got %v", err)
	}
}

// FuzzStartup checks that whatever a client says, the server is told nothing
// but our user and database and two harmless wishes, in a message that a
// server reads to its end, and that no byte after the message is taken.
func FuzzStartup(f *testing.F) {
	f.Add([]byte(sslRequest + gssRequest + packet(196608, "user\x00a\x00application_name\x00b\x00\x00") + "rest"))
	f.Add([]byte(cancel))
	f.Add([]byte(packet(196610, "_pq_.x\x00y\x00replication\x00true\x00\x00")))
	f.Add([]byte(packet(196608, "user\x00a\x00user\x00b\x00\x00")))
	f.Fuzz(func(t *testing.T, in []byte) {
		r := bytes.NewReader(in)
		var back bytes.Buffer
		raw, forward, err := tunnel.Startup(talk{r, &back}, "rewinder", "ours")
		if strings.Trim(back.String(), "N") != "" || back.Len() > 3 {
			t.Fatalf("answered %q", back.String())
		}
		if err != nil {
			if forward != nil {
				t.Fatalf("a refused client gets a message: %v", err)
			}
			return
		}
		taken := len(in) - r.Len()
		if want := 8*back.Len() + len(raw); taken != want || !bytes.Equal(in[taken-len(raw):taken], raw) {
			t.Fatalf("took %d bytes for a message of %d after %d requests", taken, len(raw), back.Len())
		}
		params := asServer(t, forward)
		if params["user"] != "rewinder" || params["database"] != "ours" {
			t.Fatalf("connects as %q to %q", params["user"], params["database"])
		}
		for k := range params {
			switch k {
			case "user", "database", "application_name", "client_encoding":
			default:
				t.Fatalf("passes %q on", k)
			}
		}
	})
}

// asServer reads a startup message as PostgreSQL's ProcessStartupPacket does.
func asServer(t *testing.T, b []byte) map[string]string {
	if len(b) < 9 || len(b) > tunnel.MaxStartup || binary.BigEndian.Uint32(b) != uint32(len(b)) || binary.BigEndian.Uint32(b[4:]) != pgproto3.ProtocolVersion30 {
		t.Fatalf("no startup message: %q", b)
	}
	params := map[string]string{}
	fields := strings.Split(string(b[8:]), "\x00")
	i := 0
	for ; i+1 < len(fields) && fields[i] != ""; i += 2 {
		if _, twice := params[fields[i]]; twice {
			t.Fatalf("%q comes twice", fields[i])
		}
		params[fields[i]] = fields[i+1]
	}
	if i != len(fields)-2 || fields[i] != "" || fields[i+1] != "" {
		t.Fatalf("the message ends early or late: %q", b)
	}
	return params
}
