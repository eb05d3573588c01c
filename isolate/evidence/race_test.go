//go:build race

package evidence

const (
	raceEnabled = true
	bigSize     = 32 << 20 // the compressor is ten times slower
)
