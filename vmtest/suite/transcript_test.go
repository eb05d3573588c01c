package suite

import (
	"bytes"
	"reflect"
	"testing"
)

const output = `=== RUN   TestA
    --- PASS: TestA/sub (0.00s)
--- PASS: TestA (0.00s)
=== RUN   TestB
    b_test.go:7: needs the moon
--- SKIP: TestB (0.00s)
--- FAIL: TestC (1.00s)
FAIL`

func TestTranscript(t *testing.T) {
	for _, through := range []bool{false, true} {
		var out bytes.Buffer
		transcript := &transcript{out: &out, through: through, prefix: "7 | "}
		for _, b := range []byte(output) {
			if n, err := transcript.Write([]byte{b}); n != 1 || err != nil {
				t.Fatal(n, err)
			}
		}
		transcript.flush()
		if got, want := transcript.counts, (counts{passed: 1, failed: 1, skipped: 1}); got != want {
			t.Errorf("counts %+v, want %+v", got, want)
		}
		if want := []string{"TestB (0.00s) b_test.go:7: needs the moon"}; !reflect.DeepEqual(transcript.skips, want) {
			t.Errorf("skips %q, want %q", transcript.skips, want)
		}
		if shown := out.Len() > 0; shown != through {
			t.Errorf("through %v: shown %v", through, shown)
		}
		transcript.reveal()
		if !bytes.Contains(out.Bytes(), []byte("7 | FAIL\n")) || bytes.Count(out.Bytes(), []byte("TestC")) != 1 {
			t.Errorf("through %v: got\n%s", through, out.Bytes())
		}
	}
}
