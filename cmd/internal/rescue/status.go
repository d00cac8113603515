package rescue

import (
	"time"

	"understudy/standby/recover"
)

// Status is what a directory is that was restored to, or is being restored.
type Status struct {
	DataDir string       `json:"data_dir"`
	Running bool         `json:"running"` // a restore works on it now
	Mode    recover.Mode `json:"mode"`
	Set     string       `json:"set"`
	Target  string       `json:"target"`
	Begun   time.Time    `json:"begun"`
	Step    string       `json:"step"`
	At      time.Time    `json:"at"`
	// Startable is false as long as the files are not complete.
	Startable bool             `json:"startable"`
	Opened    bool             `json:"opened"`
	Reached   *recover.Reached `json:"reached,omitempty"`
	Port      int              `json:"port,omitempty"`
}

// Inspect tells what a directory is. It changes nothing;
// recover.ErrNoRestore is wrapped when no restore has been there.
func Inspect(dataDir string) (Status, error) {
	s, err := recover.Inspect(dataDir)
	if err != nil {
		return Status{}, err
	}
	return Status{
		DataDir: dataDir, Running: newRunDir(dataDir).held(), Mode: s.Plan.Mode, Set: s.Plan.Label, Target: s.Plan.Aim.Target.String(), Begun: s.Plan.Made,
		Step: s.Step, At: s.At, Startable: s.Startable, Opened: s.Step == recover.Finished && s.Plan.Aim.Action != recover.Shutdown,
		Reached: s.Reached, Port: s.Plan.Port,
	}, nil
}
