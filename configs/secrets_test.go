package configs_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"understudy/configs"
)

const password = "correct-horse"

// withSecret is a node with one secret, named nas.
func withSecret(t *testing.T, entry string) *configs.Node {
	t.Helper()
	return parse(t, minimalWitness+"secrets:\n  nas: "+entry+"\n")
}

func TestNode_Secret(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return "{file: " + path + "}"
	}
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("UNDERSTUDY_TEST_SECRET", password)
	t.Setenv("UNDERSTUDY_TEST_EMPTY", "")
	for name, tt := range map[string]struct{ entry, want, wrong string }{
		"File":          {write("plain", password+"\n", 0o600), password, ""},
		"Group":         {write("group", password+"\r\n", 0o640), password, ""},
		"OneLineBreak":  {write("lines", password+"\n\n", 0o400), password + "\n", ""},
		"Env":           {"{env: UNDERSTUDY_TEST_SECRET}", password, ""},
		"WorldReadable": {write("open", password, 0o644), "", "everybody"},
		"WorldWritable": {write("write", password, 0o602), "", "chmod o-rwx"},
		"Empty":         {write("empty", "\n", 0o600), "", "is empty"},
		"TooLarge":      {write("large", strings.Repeat(password, 10_000), 0o600), "", "larger than 64 KiB"},
		"Missing":       {"{file: " + filepath.Join(dir, "none") + "}", "", "cannot be read"},
		"Folder":        {"{file: " + dir + "}", "", "not a plain file"},
		"Pipe":          {"{file: " + fifo + "}", "", "not a plain file"},
		"EnvMissing":    {"{env: UNDERSTUDY_TEST_NONE}", "", "no variable"},
		"EnvEmpty":      {"{env: UNDERSTUDY_TEST_EMPTY}", "", "empty one"},
	} {
		t.Run(name, func(t *testing.T) {
			v, err := withSecret(t, tt.entry).Secret("nas")
			if string(v.Bytes()) != tt.want {
				t.Errorf("got %q", v.Bytes())
			}
			if tt.wrong == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			var e *configs.Error
			if !errors.As(err, &e) || !strings.HasPrefix(e.Key, "secrets.nas.") || !strings.Contains(e.Text, tt.wrong) || strings.Contains(err.Error(), password) {
				t.Errorf("got %v", err)
			}
		})
	}
	if _, err := parse(t, minimalWitness).Secret("nas"); !errors.Is(err, configs.ErrNoSecret) {
		t.Errorf("got %v", err)
	}
}

func TestNode_SecretPathIsRelativeToTheFile(t *testing.T) {
	if got := withSecret(t, "{file: nas.key}").Secrets["nas"].File; got != "/etc/understudy/nas.key" {
		t.Error(got)
	}
}

func TestValue_IsNeverShown(t *testing.T) {
	t.Setenv("UNDERSTUDY_TEST_SECRET", password)
	v, err := withSecret(t, "{env: UNDERSTUDY_TEST_SECRET}").Secret("nas")
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		fmt.Fprintf(&out, verb+"\n", v)
		fmt.Fprintf(&out, verb+"\n", &v)
		fmt.Fprintf(&out, verb+"\n", struct{ V configs.Value }{v})
		fmt.Fprintf(&out, verb+"\n", struct{ v configs.Value }{v})
	}
	slog.New(slog.NewTextHandler(&out, nil)).Info("x", "v", v)
	slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "v", v)
	b, err := json.Marshal(map[string]any{"v": v})
	if err != nil {
		t.Fatal(err)
	}
	out.Write(b)
	for _, shown := range []string{password, fmt.Sprintf("%x", password), "99 111 114"} {
		if strings.Contains(out.String(), shown) {
			t.Errorf("shown in %s", out.String())
		}
	}
	v.Bytes()[0] = 'X'
	if string(v.Bytes()) != password {
		t.Error("a reader changed the value")
	}
}

func TestParse_PastedSecretIsNotRepeated(t *testing.T) {
	for _, entry := range []string{
		password, "{value: " + password + "}", "[" + password + "]", "{file: [" + password + "]}",
		"{env: \"" + password + " \"}", "{file: \"" + password + "\\n\"}", password + ": 1", "&a " + password + "\n  nas: x",
	} {
		_, err := configs.Parse("/u.yaml", []byte(minimalWitness+"secrets:\n  nas: "+entry+"\n"), rootHost)
		if err == nil || strings.Contains(err.Error(), password) {
			t.Errorf("%s: %v", entry, err)
		}
	}
}
