package worker

import (
	"context"
	"errors"
)

func (w *work) drill(context.Context) (Done, error) { return Done{}, errors.New("not yet") }
