package policy

import (
	"strings"
	"testing"
	"time"
)

func TestGlob(t *testing.T) {
	for _, tt := range []struct {
		glob Glob
		text string
		want bool
	}{
		{"web", "web", true}, {"web", "web2", false}, {"web", "", false}, {"", "", true}, {"", "a", false},
		{"web-*", "web-", true}, {"web-*", "web-1/2", true}, {"*", "", true}, {"*/nginx:*", "docker.io/library/nginx:1.27", true},
		{"a*b*c", "aXbXbXc", true}, {"a*b*c", "aXbXbX", false}, {"**a", "bba", true}, {"*é?", "caféx", true},
		{"?", "é", true}, {"?", "", false}, {"??", "a", false},
		{"[a-c]x", "bx", true}, {"[a-c]x", "dx", false}, {"[!a-c]x", "dx", true}, {"[^a]", "a", false},
		{"[]a]", "]", true}, {"[a-]", "-", true}, {`[\]]`, "]", true}, {"*[0-9]", "web-12", true},
		{`\*`, "*", true}, {`\*`, "a", false}, {`a\?*`, "a?b", true},
		{"[", "[", false}, {"a[b", "ab", false}, {`\`, `\`, false},
	} {
		if got := tt.glob.Match(tt.text); got != tt.want {
			t.Errorf("%q.Match(%q) = %v", tt.glob, tt.text, got)
		}
	}
}

// TestGlobIsNoBomb has a pattern on which naive matchers take exponential time.
func TestGlobIsNoBomb(t *testing.T) {
	start := time.Now()
	if Glob(strings.Repeat("*a", 250) + "b").Match(strings.Repeat("a", 5000)) {
		t.Error("matched")
	}
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("took %v", d)
	}
}

func FuzzGlob(f *testing.F) {
	for _, s := range []string{"web-*", "[a-z]", "[!]a]", `\*`, "[", "*a*b", "[a-\\"} {
		f.Add(s, "web-1")
	}
	f.Fuzz(func(t *testing.T, pattern, text string) {
		g := Glob(pattern)
		g.Match(text)
		if g.Check() == nil && (g+"*").Check() == nil && g.Match(text) && !(g + "*").Match(text+"x") {
			t.Errorf("%q fits %q, but with a star not what is longer", g, text)
		}
	})
}
