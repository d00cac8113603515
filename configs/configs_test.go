package configs_test

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"understudy/configs"
)

var (
	rootHost = configs.Host{Root: true, Name: "alpha"}
	userHost = configs.Host{Name: "alpha", RuntimeDir: "/run/user/1000"}
)

const minimalWitness = "name: w\ngroup: g\nkind: witness\nstate_dir: /s\n"

const minimalData = `name: a
group: g
state_dir: /s
postgresql:
  bin_dir: /bin
  data_dir: /d
`

func parse(t *testing.T, text string) *configs.Node {
	t.Helper()
	n, err := configs.Parse("/etc/understudy/understudy.yaml", []byte(text), rootHost)
	if err != nil {
		t.Fatalf("Parse: %v", err)
	}
	return n
}

func TestLoad_Examples(t *testing.T) {
	for _, name := range []string{"main", "backup", "witness"} {
		n, err := configs.Load(name + ".yaml")
		if err != nil {
			t.Fatal(err)
		}
		if n.Name != name || n.Group != "shop" || len(n.Peers) != 2 || n.File() != name+".yaml" {
			t.Errorf("%s: got %+v", name, n)
		}
		if (n.PostgreSQL != nil) != (n.Kind == configs.KindData) {
			t.Errorf("%s: kind %s and PostgreSQL %v", name, n.Kind, n.PostgreSQL)
		}
	}
}

// mainWithHooks is the first example with its sections of hooks and secrets
// switched on.
func mainWithHooks(t testing.TB) string {
	t.Helper()
	data, err := os.ReadFile("main.yaml")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(data), "\n")
	on := false
	for i, l := range lines {
		on = l == "# hooks:" || l == "# secrets:" || on && strings.HasPrefix(l, "#")
		if on {
			lines[i] = strings.TrimPrefix(l, "# ")
		}
	}
	return strings.Join(lines, "\n")
}

// The manual names every key, and a complete pair needs fewer than 30: all but
// the hooks and secrets, which it can do without.
func TestLoad_MainExampleHasEveryKey(t *testing.T) {
	data := mainWithHooks(t)
	keys := yamlKeys(reflect.TypeFor[configs.Node]())
	if n := len(keys) - len(yamlKeys(reflect.TypeFor[configs.Hooks]())) - 2; n >= 30 {
		t.Errorf("%d keys: %v", n, keys)
	}
	for _, k := range append(keys, yamlKeys(reflect.TypeFor[configs.Secret]())...) {
		if !strings.Contains("\n"+strings.ReplaceAll(data, "  ", ""), "\n"+k+":") &&
			!strings.Contains(data, "- "+k+":") {
			t.Errorf("main.yaml does not show %s", k)
		}
	}
}

func TestParse_HooksOfTheExample(t *testing.T) {
	n := parse(t, mainWithHooks(t))
	want := map[string]string{
		"before_switchover": "/etc/understudy/hooks/drain.sh orders 6432",
		"before_promotion":  "/etc/understudy/hooks/fence-storage.sh",
		"after_promotion":   "/etc/understudy/hooks/address.sh",
		"after_demotion":    "/etc/understudy/hooks/address.sh",
		"after_standby":     "/etc/understudy/hooks/tell.sh",
	}
	if diff := cmp.Diff(want, n.Hooks.Commands()); diff != "" || n.Hooks.Timeout != 10*time.Second || n.Hooks.User != "root" {
		t.Errorf("%s%+v", diff, n.Hooks)
	}
	// As shipped, the example runs nothing.
	n, err := configs.Load("main.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(configs.Hooks{Timeout: 10 * time.Second}, n.Hooks); diff != "" {
		t.Error(diff)
	}
}

func TestParse_HookLimitsAreInclusive(t *testing.T) {
	for text, want := range map[string]time.Duration{"100ms": 100 * time.Millisecond, "5m": 5 * time.Minute, "1m30s": 90 * time.Second} {
		n := parse(t, minimalData+"hooks: {after_standby: /h, timeout: "+text+"}\n")
		if n.Hooks.Timeout != want {
			t.Errorf("%s: got %s", text, n.Hooks.Timeout)
		}
	}
}

func yamlKeys(t reflect.Type) []string {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct {
		return nil
	}
	var keys []string
	for i := range t.NumField() {
		if tag, ok := t.Field(i).Tag.Lookup("yaml"); ok {
			keys = append(append(keys, tag), yamlKeys(t.Field(i).Type)...)
		}
	}
	return keys
}

func TestParse_Defaults(t *testing.T) {
	n := parse(t, minimalData)
	if n.Kind != "data" || n.RunDir != "/run/understudy" || n.Listen != "0.0.0.0:7420" || n.Advertise != "alpha:7420" || n.HTTP != "127.0.0.1:7421" {
		t.Errorf("got %+v", n)
	}
	if diff := cmp.Diff(configs.TLS{Cert: "/s/tls/node.crt", Key: "/s/tls/node.key", CA: "/s/tls/ca.crt"}, n.TLS); diff != "" {
		t.Error(diff)
	}
	pg := n.PostgreSQL
	if pg.Port != 5432 || pg.Account != "postgres" || pg.Superuser != "postgres" || len(pg.Listen) != 1 || pg.Listen[0] != "localhost" || len(pg.ClientHBA) != 3 {
		t.Errorf("got %+v", pg)
	}
	u, err := configs.Parse("x.yaml", []byte(minimalWitness), userHost)
	if err != nil || u.RunDir != "/run/user/1000/understudy" {
		t.Errorf("got %v, %v", u, err)
	}
}

func TestParse_RelativePaths(t *testing.T) {
	text := strings.NewReplacer("/s", "state", "/bin", "pg/bin", "/d", "../data").Replace(minimalData) +
		"run_dir: run\ntls: {cert: c.pem, key: k.pem, ca: /abs/ca.pem}\nlog: {file: u.log}\n"
	n := parse(t, text)
	got := []string{n.StateDir, n.RunDir, n.TLS.Cert, n.TLS.Key, n.TLS.CA, n.Log.File, n.PostgreSQL.BinDir, n.PostgreSQL.DataDir}
	e := "/etc/understudy/"
	want := []string{e + "state", e + "run", e + "c.pem", e + "k.pem", "/abs/ca.pem", e + "u.log", e + "pg/bin", "/etc/data"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if n.AdminSocket() != e+"run/admin.sock" || n.GuardSocket() != e+"run/guard.sock" ||
		n.WALSocketDir() != e+"run/wal" || n.PGSocketDir() != e+"run/pg" || n.WALGetSocket() != e+"run/wal/get.sock" ||
		n.EventsFile() != e+"state/events.jsonl" {
		t.Errorf("sockets of %s", n.RunDir)
	}
}

func TestParse_ParameterValuesKeepTheirText(t *testing.T) {
	n := parse(t, minimalData+"  parameters:\n    max_connections: 200\n    jit: off\n    autovacuum: true\n    checkpoint_completion_target: 0.9\n    log_line_prefix: '%m '\n    pg_stat_statements.max: 10\n")
	want := map[string]string{"max_connections": "200", "jit": "off", "autovacuum": "true",
		"checkpoint_completion_target": "0.9", "log_line_prefix": "%m ", "pg_stat_statements.max": "10"}
	if diff := cmp.Diff(want, n.PostgreSQL.Parameters); diff != "" {
		t.Error(diff)
	}
}

func TestParse_Refuses(t *testing.T) {
	long := "/" + strings.Repeat("x", 120)
	for name, tt := range map[string]struct {
		text string
		key  string
		line int
		want string // part of the sentence
	}{
		"Empty":                {"", "", 0, "empty"},
		"OnlyComment":          {"# nothing\n", "", 0, "empty"},
		"NotYAML":              {"name: [\n", "", 1, ""},
		"UnknownKey":           {minimalWitness + "colour: red\n", "colour", 5, "unknown"},
		"UnknownNestedKey":     {minimalData + "  prot: 5\n", "postgresql.prot", 7, "unknown"},
		"UnknownPeerKey":       {minimalWitness + "peers:\n  - name: b\n    adress: b:1\n", "peers[0].adress", 7, "unknown"},
		"DuplicateKey":         {minimalWitness + "name: x\n", "name", 5, ""},
		"WrongType":            {minimalData + "  port: many\n", "postgresql.port", 7, ""},
		"SectionIsText":        {minimalWitness + "tls: yes\n", "tls", 5, ""},
		"TwoDocuments":         {minimalWitness + "---\nname: b\n", "", 0, "more than one"},
		"NoName":               {"group: g\nkind: witness\nstate_dir: /s\n", "name", 0, "required"},
		"BadName":              {strings.Replace(minimalWitness, "name: w", "name: ../w", 1), "name", 1, "lower-case"},
		"NoGroup":              {"name: w\nkind: witness\nstate_dir: /s\n", "group", 0, "required"},
		"BadKind":              {strings.Replace(minimalWitness, "witness", "arbiter", 1), "kind", 3, "data or witness"},
		"NoStateDir":           {"name: w\ngroup: g\nkind: witness\n", "state_dir", 0, "required"},
		"DataWithoutServer":    {"name: w\ngroup: g\nstate_dir: /s\n", "postgresql", 0, "required"},
		"WitnessWithServer":    {minimalData + "kind: witness\n", "postgresql", 4, "witness runs no PostgreSQL"},
		"NoBinDir":             {strings.Replace(minimalData, "  bin_dir: /bin\n", "", 1), "postgresql.bin_dir", 0, "required"},
		"NoDataDir":            {strings.Replace(minimalData, "  data_dir: /d\n", "", 1), "postgresql.data_dir", 0, "required"},
		"StateInsideData":      {strings.Replace(minimalData, "state_dir: /s", "state_dir: /d/s", 1), "postgresql.data_dir", 6, "contain one another"},
		"RunDirTooLong":        {minimalWitness + "run_dir: " + long + "\n", "run_dir", 5, "107 bytes"},
		"SocketDirTooLong":     {minimalData + "  socket_dir: " + long + "\n", "postgresql.socket_dir", 7, "107 bytes"},
		"RunDirIsStateDir":     {minimalWitness + "run_dir: /s\n", "run_dir", 5, "differ"},
		"ListenWithoutPort":    {minimalWitness + "listen: 0.0.0.0\n", "listen", 5, "host:port"},
		"PortTooLarge":         {minimalWitness + "listen: 0.0.0.0:70000\n", "listen", 5, "65535"},
		"AdvertiseAnywhere":    {minimalWitness + "advertise: 0.0.0.0:7420\n", "advertise", 5, "reach"},
		"HTTPIsListen":         {minimalWitness + "http: 0.0.0.0:7420\n", "http", 5, "different ports"},
		"PeerIsSelf":           {minimalWitness + "peers:\n- {name: w, address: 'b:1'}\n", "peers[0].name", 6, "name of this node"},
		"PeerWithoutAddress":   {minimalWitness + "peers:\n- {name: b}\n", "peers[0].address", 0, "host:port"},
		"PastedKey":            {minimalWitness + "tls:\n  key: |\n    -----BEGIN PRIVATE KEY-----\n", "tls.key", 6, "path"},
		"BadLevel":             {minimalWitness + "log: {level: loud}\n", "log.level", 5, "debug"},
		"PortZero":             {minimalData + "  port: 0\n", "postgresql.port", 7, "between"},
		"AccountRoot":          {minimalData + "  account: root\n", "postgresql.account", 7, "root"},
		"HBATwoLines":          {minimalData + "  hba: [\"local all all peer\\nhost all all all trust\"]\n", "postgresql.hba[0]", 0, "one line"},
		"HBAInclude":           {minimalData + "  hba:\n  - include other.conf\n", "postgresql.hba[0]", 0, "begin with"},
		"ForcedFsync":          {minimalData + "  parameters:\n    fsync: off\n", "postgresql.parameters.fsync", 8, "fsync is set by understudy"},
		"ForcedAnyCase":        {minimalData + "  parameters:\n    Primary_ConnInfo: x\n", "postgresql.parameters.Primary_ConnInfo", 8, "primary_conninfo is set"},
		"SyncNames":            {minimalData + "  parameters: {synchronous_standby_names: '*'}\n", "postgresql.parameters.synchronous_standby_names", 7, "set by understudy"},
		"ParameterHasOwnKey":   {minimalData + "  parameters: {port: 1}\n", "postgresql.parameters.port", 7, "postgresql.port"},
		"WALLevelMinimal":      {minimalData + "  parameters: {wal_level: minimal}\n", "postgresql.parameters.wal_level", 7, "replica or logical"},
		"ParameterInjection":   {minimalData + "  parameters:\n    work_mem: \"1MB\\nfsync = off\"\n", "postgresql.parameters.work_mem", 8, "one line"},
		"ParameterNameInvalid": {minimalData + "  parameters: {'fsync = off #': x}\n", "postgresql.parameters.fsync = off #", 0, "no name"},
		"ParameterTwice":       {minimalData + "  parameters:\n    work_mem: 1MB\n    WORK_MEM: 2MB\n", "postgresql.parameters.work_mem", 8, "same setting"},
		"HooksOfWitness":       {minimalWitness + "hooks: {timeout: 1s}\n", "hooks", 5, "witness"},
		"UnknownHook":          {minimalData + "hooks:\n  on_promote: /h\n", "hooks.on_promote", 8, "unknown"},
		"HookRelative":         {minimalData + "hooks:\n  after_promotion: hooks/up.sh\n", "hooks.after_promotion", 8, "absolute"},
		"HookEmpty":            {minimalData + "hooks:\n  after_demotion: ''\n", "hooks.after_demotion", 8, "no program"},
		"HookTwoLines":         {minimalData + "hooks:\n  after_standby: \"/h\\n/x\"\n", "hooks.after_standby", 8, "one line"},
		"HookIsList":           {minimalData + "hooks:\n  before_promotion: [/h, x]\n", "hooks.before_promotion", 8, ""},
		"HookTimeoutZero":      {minimalData + "hooks: {timeout: 0s}\n", "hooks.timeout", 7, "between"},
		"HookTimeoutShort":     {minimalData + "hooks: {timeout: 99ms}\n", "hooks.timeout", 7, "between"},
		"HookTimeoutLong":      {minimalData + "hooks: {timeout: 301s}\n", "hooks.timeout", 7, "between 100ms and 5m"},
		"HookTimeoutNoUnit":    {minimalData + "hooks:\n  timeout: 10\n", "hooks.timeout", 8, ""},
		"SecretNeither":        {minimalWitness + "secrets:\n  nas: {}\n", "secrets.nas", 6, "either file or env"},
		"SecretBoth":           {minimalWitness + "secrets:\n  nas: {file: /k, env: K}\n", "secrets.nas", 6, "not both"},
		"SecretName":           {minimalWitness + "secrets:\n  NAS: {file: /k}\n", "secrets.NAS", 6, "lower-case"},
		"SecretUnknownKey":     {minimalWitness + "secrets:\n  nas:\n    value: x\n", "secrets.nas.value", 7, "unknown"},
		"SecretIsText":         {minimalWitness + "secrets:\n  nas: x\n", "secrets.nas", 6, ""},
		"SecretPasted":         {minimalWitness + "secrets:\n  nas:\n    file: |\n      -----BEGIN OPENSSH PRIVATE KEY-----\n", "secrets.nas.file", 7, "path"},
		"SecretEnvIsValue":     {minimalWitness + "secrets:\n  nas: {env: 'pass word'}\n", "secrets.nas.env", 6, "name of a variable"},
		"HookUser":             {minimalData + "hooks: {user: 'a b'}\n", "hooks.user", 7, "no account name"},
	} {
		t.Run(name, func(t *testing.T) {
			n, err := configs.Parse("/etc/understudy/u.yaml", []byte(tt.text), rootHost)
			var e *configs.Error
			if !errors.As(err, &e) {
				t.Fatalf("got %+v, %v; want an *Error", n, err)
			}
			if e.File != "/etc/understudy/u.yaml" || e.Key != tt.key || !strings.Contains(e.Text, tt.want) {
				t.Errorf("got key %q, text %q", e.Key, e.Text)
			}
			if tt.line != 0 && e.Line != tt.line {
				t.Errorf("got line %d, want %d (%v)", e.Line, tt.line, err)
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("more than one line: %q", err.Error())
			}
		})
	}
}

func TestParse_NoRunDirForUsers(t *testing.T) {
	_, err := configs.Parse("x.yaml", []byte(minimalWitness), configs.Host{Name: "alpha"})
	var e *configs.Error
	if !errors.As(err, &e) || e.Key != "run_dir" || !strings.Contains(e.Text, "XDG_RUNTIME_DIR") {
		t.Errorf("got %v", err)
	}
}

func TestParse_SocketLimitIsExact(t *testing.T) {
	// The longest socket is RunDir/wal/.s.PGSQL.65535.
	fits := "/" + strings.Repeat("x", 107-len("/wal/.s.PGSQL.65535")-1)
	if _, err := configs.Parse("x.yaml", []byte(minimalWitness+"run_dir: "+fits+"\n"), rootHost); err != nil {
		t.Errorf("%d bytes: %v", len(fits), err)
	}
	if _, err := configs.Parse("x.yaml", []byte(minimalWitness+"run_dir: "+fits+"x\n"), rootHost); err == nil {
		t.Errorf("%d bytes: no error", len(fits)+1)
	}
}

func TestLoad_FileProblems(t *testing.T) {
	dir := t.TempDir()
	if _, err := configs.Load(filepath.Join(dir, "none.yaml")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	big := filepath.Join(dir, "big.yaml")
	if err := os.WriteFile(big, []byte("# "+strings.Repeat("x", 70<<10)), 0o600); err != nil {
		t.Fatal(err)
	}
	var e *configs.Error
	if _, err := configs.Load(big); !errors.As(err, &e) || !strings.Contains(e.Text, "larger") {
		t.Errorf("got %v", err)
	}
}

func FuzzParse(f *testing.F) {
	for _, name := range []string{"main.yaml", "backup.yaml", "witness.yaml"} {
		data, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte(mainWithHooks(f)))
	for _, s := range []string{"", minimalData, minimalWitness, "a: &a [*a]", "? x", "- - -", "{{", "\xff\xfe", "name: !!binary x", "<<: *x", "name: >\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		n, err := configs.Parse("/etc/u.yaml", data, rootHost)
		if err != nil {
			var e *configs.Error
			if !errors.As(err, &e) || e.Text == "" || strings.Contains(err.Error(), "\n") {
				t.Fatalf("got %#v", err)
			}
			return
		}
		if err := n.Validate(); err != nil {
			t.Fatalf("accepted, then refused: %v", err)
		}
		if len(n.AdminSocket()) > 107 || !filepath.IsAbs(n.StateDir) || strings.ContainsAny(n.Name+n.Group, "/\n") {
			t.Fatalf("got %+v", n)
		}
		for key, line := range n.Hooks.Commands() {
			if !filepath.IsAbs(line) || strings.ContainsAny(line, "\n\x00") {
				t.Fatalf("hook %s: %q", key, line)
			}
		}
	})
}
