package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// printTable aligns rows under a header; without a header only the rows.
func printTable(w io.Writer, header []string, rows [][]string) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	if header != nil {
		fmt.Fprintln(t, strings.Join(header, "\t"))
	}
	for _, row := range rows {
		for i, cell := range row {
			row[i] = printable(cell)
		}
		fmt.Fprintln(t, strings.TrimRight(strings.Join(row, "\t"), "\t"))
	}
	return t.Flush()
}

// printable keeps the terminal from what a process may put into its name.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, text)
}

// printMessage writes m as indented JSON with the field names of the .proto
// files, defaults included.
func (a *app) printMessage(m proto.Message) error {
	var b bytes.Buffer
	raw, err := messageJSON(m)
	if err == nil {
		err = json.Indent(&b, raw, "", "  ")
	}
	if err != nil {
		return fmt.Errorf("print answer: %w", err)
	}
	_, err = fmt.Fprintln(a.out, b.String())
	return err
}

// printLine writes m as one line of JSON.
func (a *app) printLine(m proto.Message) error {
	raw, err := messageJSON(m)
	if err != nil {
		return fmt.Errorf("print answer: %w", err)
	}
	_, err = fmt.Fprintf(a.out, "%s\n", raw)
	return err
}

// messageJSON is compact: protojson itself varies its white space on purpose.
func messageJSON(m proto.Message) ([]byte, error) {
	raw, err := protojson.MarshalOptions{UseProtoNames: true, EmitDefaultValues: true}.Marshal(m)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if err := json.Compact(&b, raw); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// printJSON writes a Go value as indented JSON.
func (a *app) printJSON(v any) error {
	e := json.NewEncoder(a.out)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

func yes(on bool) string {
	if on {
		return "yes"
	}
	return "no"
}

// or is text, or instead where there is none.
func or(text, instead string) string {
	if text == "" {
		return instead
	}
	return text
}

// bytesText is a size for people.
func bytesText(n int64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	size, unit := float64(n)/1024, 0
	for ; size >= 1024 && unit < len(units)-1; unit++ {
		size /= 1024
	}
	return fmt.Sprintf("%.1f %ciB", size, units[unit])
}

// clock is a time for people, to the microsecond where exact.
func clock(t *timestamppb.Timestamp, exact bool) string {
	if t == nil {
		return "-"
	}
	if exact {
		return t.AsTime().Local().Format("2006-01-02 15:04:05.000000")
	}
	return t.AsTime().Local().Format(time.DateTime)
}

// span is a duration for people, to the second.
func span(d time.Duration) string { return d.Round(time.Second).String() }
