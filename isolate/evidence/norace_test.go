//go:build !race

package evidence

const (
	raceEnabled = false
	bigSize     = 256 << 20
)
