package digest

// PauseSQL is the statement that pauses replay for a while.
const PauseSQL = pauseSQL
