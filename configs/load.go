package configs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// maxFileBytes bounds the size of a node file.
const maxFileBytes = 64 << 10

// Error says what is wrong with a node file, in one sentence.
type Error struct {
	File string // path of the node file
	Key  string // dotted path of the key, such as "postgresql.port"; empty when it is the file itself
	Line int    // line of the key, from 1; 0 when the file does not have the key
	Text string // the sentence, without file, line and key
}

// Error is "file:line: key: text".
func (e *Error) Error() string {
	var b strings.Builder
	if e.File != "" {
		b.WriteString(e.File)
		if e.Line > 0 {
			fmt.Fprintf(&b, ":%d", e.Line)
		}
		b.WriteString(": ")
	}
	if e.Key != "" {
		b.WriteString(e.Key + ": ")
	}
	b.WriteString(e.Text)
	return b.String()
}

// Host is what the defaults depend on.
type Host struct {
	Root       bool   // the daemon runs as root
	Name       string // the host's name
	RuntimeDir string // $XDG_RUNTIME_DIR
}

// ThisHost describes the machine and account that run the program.
func ThisHost() (Host, error) {
	name, err := os.Hostname()
	if err != nil {
		return Host{}, fmt.Errorf("read host name: %w", err)
	}
	return Host{Root: os.Geteuid() == 0, Name: name, RuntimeDir: os.Getenv("XDG_RUNTIME_DIR")}, nil
}

// Load reads the node file at path, fills in the defaults and validates the
// result. Relative paths in it are resolved against the file's folder. What is
// wrong with the contents is reported as *Error; a file that cannot be read, as
// the error of the operating system.
func Load(path string) (*Node, error) {
	host, err := ThisHost()
	if err != nil {
		return nil, err
	}
	data, err := readBounded(path)
	if err != nil {
		return nil, err
	}
	return Parse(path, data, host)
}

func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read node file: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	if err != nil {
		return nil, fmt.Errorf("read node file: %w", err)
	}
	return data, nil
}

// Parse is Load for contents in memory; path is used in messages and to
// resolve relative paths.
func Parse(path string, data []byte, host Host) (*Node, error) {
	if len(data) > maxFileBytes {
		return nil, &Error{File: path, Text: fmt.Sprintf("the file is larger than %d KiB", maxFileBytes>>10)}
	}
	n, err := decode(path, data)
	if err != nil {
		return nil, err
	}
	folder, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("resolve folder of node file: %w", err)
	}
	n.setDefaults(host)
	n.resolve(folder)
	if err := n.Validate(); err != nil {
		return nil, err
	}
	return n, nil
}

// decode reads the keys of a node. The YAML library has panicked on malformed
// input before; such input is a bad file and not a broken invariant of ours.
func decode(path string, data []byte) (n *Node, err error) {
	defer func() {
		if r := recover(); r != nil {
			n, err = nil, &Error{File: path, Text: "the file is not valid YAML"}
		}
	}()
	// A double key is left to the decoder, so that the index exists to name it.
	tree, err := parser.ParseBytes(data, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		return nil, yamlError(path, err, &keyIndex{})
	}
	idx := indexKeys(tree)
	n = new(Node)
	dec := yaml.NewDecoder(bytes.NewReader(data), yaml.Strict())
	if err := dec.Decode(n); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, &Error{File: path, Text: "the file is empty"}
		}
		return nil, yamlError(path, err, idx)
	}
	if err := dec.Decode(new(any)); !errors.Is(err, io.EOF) {
		return nil, &Error{File: path, Text: "the file holds more than one YAML document"}
	}
	n.file, n.lines = path, idx.lines
	return n, nil
}

// yamlError turns an error of the YAML library into ours, on one line.
func yamlError(path string, err error, idx *keyIndex) error {
	e := &Error{File: path, Text: oneLine(err.Error())}
	var ye yaml.Error
	if !errors.As(err, &ye) {
		return e
	}
	e.Text = oneLine(ye.GetMessage())
	tk := ye.GetToken()
	if tk == nil || tk.Position == nil {
		return e
	}
	e.Line = tk.Position.Line
	e.Key = idx.keyAt(e.Line)
	var unknown *yaml.UnknownFieldError
	if !errors.As(err, &unknown) {
		return e
	}
	e.Text = "this key is unknown"
	if e.Key == "" {
		e.Key = oneLine(tk.Value)
	}
	return e
}

// oneLine makes text of a library or of the file fit for a message.
func oneLine(s string) string {
	return strings.Join(strings.Fields(strings.ToValidUTF8(s, "?")), " ")
}

// keyIndex knows where the keys of a file are.
type keyIndex struct {
	lines map[string]int // dotted key path → line
	keys  map[int]string // line → innermost key path that begins on it
}

// keyAt is the key at line, or the nearest one above it.
func (x *keyIndex) keyAt(line int) string {
	for ; line > 0; line-- {
		if k, ok := x.keys[line]; ok {
			return k
		}
	}
	return ""
}

func indexKeys(tree *ast.File) *keyIndex {
	x := &keyIndex{lines: map[string]int{}, keys: map[int]string{}}
	for _, doc := range tree.Docs {
		if doc.Body != nil {
			ast.Walk(x, doc.Body)
		}
	}
	return x
}

// Visit records the key of every mapping entry. It implements ast.Visitor.
func (x *keyIndex) Visit(node ast.Node) ast.Visitor {
	mv, ok := node.(*ast.MappingValueNode)
	if !ok {
		return x
	}
	tk := mv.Key.GetToken()
	if tk == nil || tk.Position == nil {
		return x
	}
	path := oneLine(strings.TrimPrefix(mv.Key.GetPath(), "$."))
	x.lines[path] = tk.Position.Line
	x.keys[tk.Position.Line] = path
	return x
}

func (n *Node) setDefaults(host Host) {
	set(&n.Kind, KindData)
	set(&n.Listen, "0.0.0.0:7420")
	set(&n.HTTP, "127.0.0.1:7421")
	set(&n.Log.Level, "info")
	// As with the port below, 0 in the file is an error.
	if _, given := n.lines["hooks.timeout"]; !given && n.Hooks.Timeout == 0 {
		n.Hooks.Timeout = 10 * time.Second
	}
	if n.RunDir == "" {
		switch {
		case host.Root:
			n.RunDir = "/run/understudy"
		case host.RuntimeDir != "":
			n.RunDir = filepath.Join(host.RuntimeDir, "understudy")
		}
	}
	if n.Advertise == "" {
		n.Advertise = defaultAdvertise(n.Listen, host.Name)
	}
	if n.StateDir != "" {
		set(&n.TLS.Cert, filepath.Join(n.StateDir, "tls", "node.crt"))
		set(&n.TLS.Key, filepath.Join(n.StateDir, "tls", "node.key"))
		set(&n.TLS.CA, filepath.Join(n.StateDir, "tls", "ca.crt"))
	}
	if pg := n.PostgreSQL; pg != nil {
		set(&pg.Account, "postgres")
		set(&pg.Superuser, "postgres")
		// A port of 0 in the file is an error, not a wish for the default.
		if _, given := n.lines["postgresql.port"]; !given && pg.Port == 0 {
			pg.Port = 5432
		}
		if len(pg.Listen) == 0 {
			pg.Listen = []string{"localhost"}
		}
		if len(pg.ClientHBA) == 0 {
			pg.ClientHBA = []string{
				"local all all scram-sha-256",
				"host all all 127.0.0.1/32 scram-sha-256",
				"host all all ::1/128 scram-sha-256",
			}
		}
	}
}

func set(s *string, def string) {
	if *s == "" {
		*s = def
	}
}

func defaultAdvertise(listen, hostname string) string {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return "" // Validate names the mistake in listen
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = hostname
	}
	return net.JoinHostPort(host, port)
}

// resolve makes the paths absolute.
func (n *Node) resolve(folder string) {
	paths := []*string{&n.StateDir, &n.RunDir, &n.TLS.Cert, &n.TLS.Key, &n.TLS.CA, &n.Log.File}
	if pg := n.PostgreSQL; pg != nil {
		paths = append(paths, &pg.BinDir, &pg.DataDir, &pg.SocketDir)
	}
	for _, p := range paths {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(folder, *p)
		}
	}
	for name, s := range n.Secrets {
		if s.File != "" && !filepath.IsAbs(s.File) && !strings.Contains(s.File, "-----BEGIN") {
			s.File = filepath.Join(folder, s.File)
			n.Secrets[name] = s
		}
	}
}
