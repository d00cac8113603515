package s3

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/minio/minio-go/v7"

	"understudy/shipper/location"
)

// errRange is returned when a range begins at or beyond the end.
var errRange = errors.New("the range begins beyond the end")

// again calls f until it succeeds, until its error is one that repeating does
// not help, or until it has been repeated long enough. What failed by waiting
// is not repeated.
func (l *Location) again(ctx context.Context, f func() error) error {
	err := l.explain(ctx, f())
	for _, pause := range l.pauses {
		if err == nil || !errors.Is(err, errPassing) || isSilence(err) {
			return err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		err = l.explain(ctx, f())
	}
	return err
}

// errPassing marks failures that may be over soon.
var errPassing = errors.New("for the moment")

// isSilence tells whether a request ended because nothing moved.
func isSilence(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) || isTimeout(err) }

func isTimeout(err error) bool {
	var t net.Error
	return errors.As(err, &t) && t.Timeout()
}

// explain turns an error of the library into one of the port.
func (l *Location) explain(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	var answer minio.ErrorResponse
	if errors.As(err, &answer) && answer.Code != "" {
		return l.explainAnswer(answer)
	}
	var unknown x509.UnknownAuthorityError
	var host x509.HostnameError
	var invalid x509.CertificateInvalidError
	if errors.As(err, &unknown) || errors.As(err, &host) || errors.As(err, &invalid) {
		return fmt.Errorf("%w: its certificate is not trusted: %w", location.ErrRefused, err)
	}
	var network net.Error
	if errors.As(err, &network) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w %w: %w", location.ErrUnreachable, errPassing, err)
	}
	return err
}

// explainAnswer is explain for what the server said.
func (l *Location) explainAnswer(e minio.ErrorResponse) error {
	switch e.Code {
	case minio.NoSuchBucket:
		return l.noBucket()
	case minio.NoSuchKey:
		return location.ErrNotExist
	case "InvalidRange":
		return errRange
	case minio.AccessDenied, "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "ExpiredToken", "AccountProblem", "AllAccessDisabled",
		"InvalidRegion", "AuthorizationHeaderMalformed", "PermanentRedirect", "MethodNotAllowed", "InvalidBucketName", "InvalidStorageClass":
		return fmt.Errorf("%w: %w", location.ErrRefused, e)
	case "RequestTimeTooSkewed":
		return fmt.Errorf("%w: set this machine's clock or the server's: %w", location.ErrRefused, e)
	case "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "QuotaExceeded", "EntityTooLargeQuota":
		return fmt.Errorf("%w: %w", location.ErrNoSpace, e)
	case "BadDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch", "InvalidDigest", "IncompleteBody":
		return fmt.Errorf("%w on the way: %w", location.ErrDamaged, e)
	}
	switch {
	case e.StatusCode == http.StatusInsufficientStorage:
		return fmt.Errorf("%w: %w", location.ErrNoSpace, e)
	case e.StatusCode == http.StatusForbidden, e.StatusCode == http.StatusUnauthorized, e.StatusCode == http.StatusMovedPermanently:
		return fmt.Errorf("%w: %w", location.ErrRefused, e)
	case e.StatusCode == http.StatusTooManyRequests, e.StatusCode >= http.StatusInternalServerError:
		return fmt.Errorf("%w %w: %w", location.ErrUnreachable, errPassing, e)
	}
	return e
}
