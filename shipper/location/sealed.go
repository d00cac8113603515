package location

import (
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"

	"filippo.io/age"
)

// The layout of an encrypted object, by age's specification, and the one
// length that its beginning has here.
const (
	sealedHead  = 4096 // header, and the nonce of the payload
	sealedNonce = 16
	sealedTag   = 16       // after each chunk
	sealedChunk = 64 << 10 // of plaintext
)

// sealedSize is the size of the encrypted object for n bytes.
func sealedSize(n int64) int64 {
	chunks := max(1, (n+sealedChunk-1)/sealedChunk)
	return sealedHead + n + chunks*sealedTag
}

// plainSize is the inverse of sealedSize; false for what is no value of it.
func plainSize(n int64) (int64, bool) {
	payload := n - sealedHead
	chunks := (payload + sealedChunk + sealedTag - 1) / (sealedChunk + sealedTag)
	plain := payload - chunks*sealedTag
	return plain, payload > 0 && plain >= 0 && sealedSize(plain) == n
}

// padded is a recipient that stands for several and fills the header up.
type padded []age.Recipient

// Wrap implements age.Recipient.
func (p padded) Wrap(fileKey []byte) ([]*age.Stanza, error) {
	all, _, err := p.WrapWithLabels(fileKey)
	return all, err
}

// WrapWithLabels implements age.RecipientWithLabels. Recipients whose labels
// differ must not be mixed; age checks that only between its own arguments.
func (p padded) WrapWithLabels(fileKey []byte) (all []*age.Stanza, labels []string, err error) {
	for i, r := range p {
		s, l, err := wrap(r, fileKey)
		if err != nil {
			return nil, nil, fmt.Errorf("recipient %d: %w", i+1, err)
		}
		slices.Sort(l)
		if i > 0 && !slices.Equal(l, labels) {
			return nil, nil, errors.New("recipients of different kinds, such as post-quantum and classic ones, cannot be mixed")
		}
		all, labels = append(all, s...), l
	}
	fill, err := padding(all)
	if err != nil {
		return nil, nil, err
	}
	return append(all, fill), labels, nil
}

func wrap(r age.Recipient, fileKey []byte) ([]*age.Stanza, []string, error) {
	if l, ok := r.(age.RecipientWithLabels); ok {
		return l.WrapWithLabels(fileKey)
	}
	s, err := r.Wrap(fileKey)
	return s, nil, err
}

// padding is the stanza that makes the header as long as all others.
func padding(stanzas []*age.Stanza) (*age.Stanza, error) {
	const around = len("age-encryption.org/v1\n") + len("--- ") + 43 + len("\n")
	fill := &age.Stanza{Type: "padding-grease", Args: []string{""}}
	room := sealedHead - sealedNonce - around - stanzaSize(fill)
	for _, s := range stanzas {
		room -= stanzaSize(s)
	}
	if room < 1 {
		return nil, fmt.Errorf("too many recipients: their header is %d bytes too long", 1-room)
	}
	fill.Args[0] = strings.Repeat("-", room)
	return fill, nil
}

// stanzaSize is the length of a stanza in the header.
func stanzaSize(s *age.Stanza) int {
	n := len("-> ") + len(s.Type) + len("\n")
	for _, a := range s.Args {
		n += len(" ") + len(a)
	}
	body := base64.RawStdEncoding.EncodedLen(len(s.Body))
	return n + body + body/64 + len("\n") // the last line is short, or empty
}
