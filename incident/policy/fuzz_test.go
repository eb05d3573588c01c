package policy

import (
	"reflect"
	"strings"
	"testing"
)

// FuzzParse: no text makes Parse panic, each problem has a remedy, and what is
// valid means the same after it was written and read again.
func FuzzParse(f *testing.F) {
	for _, s := range []string{
		example, Default().String(), mustParse(f, example).String(),
		"", "~", "- a", "agent: &a {run: *a}", "? a\n: b", "agent: {run: |\n /a\n}", "policies:\n- {name: a, probe: {tcp: ':80'}}",
		"policies: [{name: a, select: {labels: {'a.b/c': \"\\u00e9*\"}}}]", "agent: !!map {}", "<<: {}", "---\n...\n", "%YAML 1.2\n---\na: b",
		"quarantine: {examiners: [10.0.0.0/8, '::1']}", "policies: [{name: a, hold: 0.5h, judge: 1e1s, signals: [SIGTERM]}]",
		strings.Repeat("- ", 100), strings.Repeat("[", 31), "a: 'b", "\"agent\\n.run\": 1", "\xef\xbb\xbfagent: {}", "agent:\r\n  run: /a\r\n", "\"agent\": {\"run\": \"/a\"}",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse(data)
		if err != nil {
			for line := range strings.Lines(err.Error()) {
				if !strings.Contains(line, "(") {
					t.Errorf("no remedy in %q", line)
				}
			}
			return
		}
		text := c.String()
		back, err := Parse([]byte(text))
		if err != nil {
			t.Fatalf("%v\nin\n%s", err, text)
		}
		if !reflect.DeepEqual(back, c) {
			t.Fatalf("got %+v\nwant %+v\nfrom\n%s", back, c, text)
		}
	})
}
