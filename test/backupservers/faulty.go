package backupservers

import (
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"
)

// Faults are what a FaultySFTP does wrong. Each field may be nil.
type Faults struct {
	// Write returns what is really stored of a chunk that is written to a file
	// at an offset; all of it is acknowledged.
	Write func(name string, off int64, b []byte) []byte
	// Read may alter what is read.
	Read func(name string, off int64, b []byte)
	// Refuse is the error of every change of the disk. The server tells the text
	// alone, as a failure without a code of its own.
	Refuse error
}

// FaultySFTP is an SFTP server in the test's own process whose disk can be made
// to lie. It has no fsync, and what it says of an open file is what has the
// file's name now: an object must not be replaced while it is read.
type FaultySFTP struct {
	Address string // host:port
	User    string
	HostKey string // its public key, as in authorized_keys
	Key     []byte // the user's private key, PEM
	Root    string // a directory of the server's
	Dir     string // the same here

	base   string // of all paths
	l      net.Listener
	server *ssh.ServerConfig

	mu     sync.Mutex
	faults Faults
	conns  map[net.Conn]bool
	wg     sync.WaitGroup
}

// NewFaultySFTP starts one that keeps its files in a new directory, and does
// nothing wrong yet.
func NewFaultySFTP(t testing.TB) *FaultySFTP {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	hostKey, public := NewKey(t, "")
	signer, err := ssh.ParsePrivateKey(hostKey)
	if err != nil {
		t.Fatal(err)
	}
	s := &FaultySFTP{Address: l.Addr().String(), User: "test", HostKey: public, Root: "/files", base: t.TempDir(), l: l, conns: map[net.Conn]bool{}}
	s.Dir = filepath.Join(s.base, s.Root)
	if err := os.Mkdir(s.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	var allowed string
	s.Key, allowed = NewKey(t, "")
	want, _, _, _, err := ssh.ParseAuthorizedKey([]byte(allowed))
	if err != nil {
		t.Fatal(err)
	}
	s.server = &ssh.ServerConfig{PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		if string(key.Marshal()) != string(want.Marshal()) {
			return nil, errors.New("another key")
		}
		return nil, nil
	}}
	s.server.AddHostKey(signer)
	s.wg.Go(s.accept)
	t.Cleanup(func() {
		l.Close()
		s.mu.Lock()
		for c := range s.conns {
			c.Close()
		}
		s.mu.Unlock()
		s.wg.Wait()
	})
	return s
}

// Set replaces what is done wrong from now on.
func (s *FaultySFTP) Set(f Faults) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = f
}

func (s *FaultySFTP) now() Faults {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.faults
}

func (s *FaultySFTP) accept() {
	for {
		c, err := s.l.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		s.conns[c] = true
		s.mu.Unlock()
		s.wg.Go(func() {
			s.serve(c)
			c.Close()
			s.mu.Lock()
			delete(s.conns, c)
			s.mu.Unlock()
		})
	}
}

// serve is one connection.
func (s *FaultySFTP) serve(c net.Conn) {
	sc, channels, requests, err := ssh.NewServerConn(c, s.server)
	if err != nil {
		return
	}
	defer sc.Close()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		for r := range requests {
			r.Reply(true, nil) // keepalives
		}
	})
	for n := range channels {
		ch, rs, err := n.Accept()
		if err != nil {
			continue
		}
		wg.Go(func() {
			for r := range rs {
				r.Reply(r.Type == "subsystem", nil)
			}
		})
		wg.Go(func() {
			h := &faultyFiles{s}
			server := sftp.NewRequestServer(ch, sftp.Handlers{FileGet: h, FilePut: h, FileCmd: h, FileList: h})
			server.Serve()
			server.Close()
			ch.Close()
		})
	}
}

// faultyFiles are the files of a FaultySFTP.
type faultyFiles struct{ s *FaultySFTP }

func (h *faultyFiles) path(p string) string { return filepath.Join(h.s.base, filepath.Clean("/"+p)) }

// Fileread implements sftp.FileReader.
func (h *faultyFiles) Fileread(r *sftp.Request) (io.ReaderAt, error) {
	f, err := os.Open(h.path(r.Filepath))
	if err != nil {
		return nil, err
	}
	return &faultyFile{f, r.Filepath, h.s}, nil
}

// Filewrite implements sftp.FileWriter.
func (h *faultyFiles) Filewrite(r *sftp.Request) (io.WriterAt, error) { return h.OpenFile(r) }

// OpenFile implements sftp.OpenFileWriter.
func (h *faultyFiles) OpenFile(r *sftp.Request) (sftp.WriterAtReaderAt, error) {
	if err := h.s.now().Refuse; err != nil {
		return nil, err
	}
	flags := os.O_RDWR
	p := r.Pflags()
	if p.Creat {
		flags |= os.O_CREATE
	}
	if p.Trunc {
		flags |= os.O_TRUNC
	}
	if p.Excl {
		flags |= os.O_EXCL
	}
	f, err := os.OpenFile(h.path(r.Filepath), flags, 0o600)
	if err != nil {
		return nil, err
	}
	return &faultyFile{f, r.Filepath, h.s}, nil
}

// Filecmd implements sftp.FileCmder.
func (h *faultyFiles) Filecmd(r *sftp.Request) error {
	if err := h.s.now().Refuse; err != nil {
		return err
	}
	name := h.path(r.Filepath)
	switch r.Method {
	case "Mkdir":
		return os.Mkdir(name, 0o700)
	case "Rmdir":
		return syscall.Rmdir(name)
	case "Remove":
		return os.Remove(name)
	case "Rename":
		if _, err := os.Lstat(h.path(r.Target)); err == nil {
			return fs.ErrExist
		}
		return os.Rename(name, h.path(r.Target))
	case "Link":
		// The library names the two as a server of its own has them.
		return os.Link(name, h.path(r.Target))
	case "Setstat":
		if r.AttrFlags().Size {
			return os.Truncate(name, int64(r.Attributes().Size))
		}
		return nil
	}
	return sftp.ErrSSHFxOpUnsupported
}

// PosixRename implements sftp.PosixRenameFileCmder.
func (h *faultyFiles) PosixRename(r *sftp.Request) error {
	if err := h.s.now().Refuse; err != nil {
		return err
	}
	return os.Rename(h.path(r.Filepath), h.path(r.Target))
}

// StatVFS implements sftp.StatVFSFileCmder.
func (h *faultyFiles) StatVFS(r *sftp.Request) (*sftp.StatVFS, error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(h.path(r.Filepath), &st); err != nil {
		return nil, err
	}
	return &sftp.StatVFS{Bsize: uint64(st.Bsize), Frsize: uint64(st.Bsize), Blocks: st.Blocks, Bfree: st.Bfree, Bavail: st.Bavail,
		Files: st.Files, Ffree: st.Ffree, Favail: st.Ffree, Namemax: 255}, nil
}

// Filelist implements sftp.FileLister.
func (h *faultyFiles) Filelist(r *sftp.Request) (sftp.ListerAt, error) {
	name := h.path(r.Filepath)
	if r.Method != "List" {
		fi, err := os.Stat(name)
		return infos{fi}, err
	}
	entries, err := os.ReadDir(name)
	var out infos
	for _, e := range entries {
		if fi, err := e.Info(); err == nil {
			out = append(out, fi)
		}
	}
	return out, err
}

// infos are the answer to a listing.
type infos []fs.FileInfo

// ListAt implements sftp.ListerAt.
func (l infos) ListAt(to []fs.FileInfo, at int64) (int, error) {
	if at >= int64(len(l)) {
		return 0, io.EOF
	}
	n := copy(to, l[at:])
	if int(at)+n == len(l) {
		return n, io.EOF
	}
	return n, nil
}

// faultyFile is one open file.
type faultyFile struct {
	*os.File
	name string
	s    *FaultySFTP
}

// WriteAt implements io.WriterAt.
func (f *faultyFile) WriteAt(b []byte, off int64) (int, error) {
	faults := f.s.now()
	if faults.Refuse != nil {
		return 0, faults.Refuse
	}
	stored := b
	if faults.Write != nil {
		stored = faults.Write(f.name, off, b)
	}
	if n, err := f.File.WriteAt(stored, off); err != nil {
		return n, err
	}
	return len(b), nil
}

// ReadAt implements io.ReaderAt.
func (f *faultyFile) ReadAt(b []byte, off int64) (int, error) {
	n, err := f.File.ReadAt(b, off)
	if faults := f.s.now(); faults.Read != nil {
		faults.Read(f.name, off, b[:n])
	}
	return n, err
}
