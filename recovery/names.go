package recovery

import (
	"crypto/sha256"
	"encoding/hex"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/reprieve-dev/reprieve/workload"
)

// All names are derived from the incident's id, so that an agent that knows
// nothing else finds what an earlier one made.
const (
	netnsPrefix     = "rprv-"  // of named network namespaces
	vethPrefix      = "rprv"   // of host veths; 4+8+3 bytes, as long as a name may be
	containerSuffix = "-rprv-" // of replacements
	shortLen        = 8        // hex digits
	containerIDMax  = 76       // containerd's limit, runc's is 1024
)

// short is 32 bits of the incident's id: enough for the incidents of one host
// that are open at a time.
func short(incident string) string {
	sum := sha256.Sum256([]byte(incident))
	return hex.EncodeToString(sum[:])[:shortLen]
}

func (r *Replacer) netnsPath(incident string) string {
	return filepath.Join(r.opts.NetNS, netnsPrefix+short(incident))
}

func (r *Replacer) recordPath(incident string) string {
	return filepath.Join(r.opts.Run, "replacements", short(incident)+".json")
}

// vethName is the host's end of interface number n.
func vethName(incident string, n int) string {
	return vethPrefix + short(incident) + strconv.Itoa(n)
}

// isVethOf says whether a name was given by vethName to any interface.
func isVethOf(incident, name string) bool {
	n, found := strings.CutPrefix(name, vethPrefix+short(incident))
	_, err := strconv.Atoi(n)
	return found && err == nil
}

// replacementRef is the identity of the replacement: web -> web-rprv-1a2b3c4d, and
// when that fails in its turn, web-rprv-5e6f7081.
func (r *Replacer) replacementRef(original workload.Ref, incident string) workload.Ref {
	suffix := containerSuffix + short(incident)
	base := original.ID
	if at := len(base) - len(suffix); at > 0 && strings.HasPrefix(base[at:], containerSuffix) {
		base = base[:at]
	}
	base = base[:min(len(base), containerIDMax-len(suffix))]
	ref := original
	ref.ID = base + suffix
	return ref
}
