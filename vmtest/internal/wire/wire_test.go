package wire

import (
	"bytes"
	"encoding/json"
	"io"
	"strings"
	"testing"
)

func TestFramesComeBack(t *testing.T) {
	var stream bytes.Buffer
	large := bytes.Repeat([]byte("x"), maxPayload+3)
	for _, payload := range [][]byte{[]byte("one"), nil, large} {
		if err := Write(&stream, KindOutput, payload); err != nil {
			t.Fatal(err)
		}
	}
	if err := WriteEvent(&stream, Event{Name: Exited, Index: 2, Code: 7}); err != nil {
		t.Fatal(err)
	}
	for _, want := range [][]byte{[]byte("one"), {}, large[:maxPayload], large[maxPayload:]} {
		kind, got, err := Read(&stream)
		if err != nil || kind != KindOutput || !bytes.Equal(got, want) {
			t.Fatalf("kind %c, %d bytes, %v; want %d bytes", kind, len(got), err, len(want))
		}
	}
	_, payload, err := Read(&stream)
	var e Event
	if err != nil || json.Unmarshal(payload, &e) != nil || e.Index != 2 || e.Code != 7 {
		t.Errorf("event %s, %v", payload, err)
	}
	if _, _, err := Read(&stream); err != io.EOF {
		t.Errorf("at the end: %v, want io.EOF", err)
	}
}

func TestReadRefuses(t *testing.T) {
	for name, stream := range map[string]string{
		"half a header":  "e\x01",
		"half a payload": "e\x05\x00\x00\x00abc",
		"a huge length":  "e\xff\xff\xff\xff",
	} {
		if _, _, err := Read(strings.NewReader(stream)); err == nil || err == io.EOF {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte("o\x03\x00\x00\x00abc"))
	f.Fuzz(func(t *testing.T, stream []byte) {
		for r := bytes.NewReader(stream); ; {
			if _, _, err := Read(r); err != nil {
				return
			}
		}
	})
}
