package journal

import (
	"crypto/rand"
	"encoding/hex"
	"strings"
	"time"
)

// NewID is an incident's ID such as "20261122-031500-7f3a1c": the time in UTC,
// then 24 random bits. IDs sort by time to the second, and can be part of the
// name of a container, a file or a label.
func NewID(t time.Time) string {
	var random [3]byte
	rand.Read(random[:]) // never fails: crypto/rand
	return t.UTC().Format("20060102-150405-") + hex.EncodeToString(random[:])
}

// ValidID says whether an incident can have this ID: 1 to 63 of a-z, 0-9 and -.
func ValidID(id string) bool {
	return id != "" && len(id) <= 63 && strings.Trim(id, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}
