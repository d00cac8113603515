package hook

import (
	"context"
	"os"
)

// RunHung runs a program whose check hangs until release is closed; gone is
// closed when the program was collected.
func RunHung(ctx context.Context, file string, a Account, release <-chan struct{}) (r Result, gone <-chan struct{}, err error) {
	c := command{argv: []string{file}, account: a, check: func(string) error {
		<-release
		return nil
	}}
	pr, pw, err := os.Pipe()
	if err != nil {
		return Result{}, nil, err
	}
	defer pr.Close()
	p := newProcess()
	go p.live(c, pw)
	r, err = p.follow(ctx, pr)
	return r, p.ended, err
}
