package evidence

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
)

const redacted = "[redacted]"

// userinfo is the password in a URL such as postgres://user:password@host.
var userinfo = regexp.MustCompile(`(://[^/@:\s]*:)[^/@\s]+@`)

// secretKey says whether a variable of that name usually holds a secret.
func secretKey(key string) bool {
	key = strings.ToUpper(key)
	for _, word := range []string{"PASSWORD", "PASSWD", "SECRET", "TOKEN", "KEY", "CREDENTIAL"} {
		if strings.Contains(key, word) {
			return true
		}
	}
	return false
}

// redactVariable blacks out the value of KEY=value where the key says that it is
// a secret, and passwords in URLs everywhere.
func redactVariable(v string) string {
	key, value, ok := strings.Cut(v, "=")
	if ok && value != "" && secretKey(key) {
		return key + "=" + redacted
	}
	return userinfo.ReplaceAllString(v, "${1}"+redacted+"@")
}

// redactEnviron does it for NUL-separated variables, as in /proc/PID/environ.
func redactEnviron(data []byte) []byte {
	vars := bytes.Split(data, []byte{0})
	for i, v := range vars {
		vars[i] = []byte(redactVariable(string(v)))
	}
	return bytes.Join(vars, []byte{0})
}

// redactSpec does it for process.env of an OCI config.json; all else is kept.
func redactSpec(data []byte) ([]byte, error) {
	var spec map[string]json.RawMessage
	if err := json.Unmarshal(data, &spec); err != nil {
		return nil, fmt.Errorf("decode spec: %w", err)
	}
	if spec["process"] == nil {
		return data, nil
	}
	var process map[string]json.RawMessage
	var env []string
	if err := json.Unmarshal(spec["process"], &process); err != nil {
		return nil, fmt.Errorf("decode spec: %w", err)
	}
	if process["env"] == nil {
		return data, nil
	}
	if err := json.Unmarshal(process["env"], &env); err != nil {
		return nil, fmt.Errorf("decode spec: %w", err)
	}
	for i := range env {
		env[i] = redactVariable(env[i])
	}
	if err := setJSON(process, "env", env); err != nil {
		return nil, err
	}
	if err := setJSON(spec, "process", process); err != nil {
		return nil, err
	}
	return json.MarshalIndent(spec, "", "\t")
}

func setJSON(m map[string]json.RawMessage, key string, v any) error {
	data, err := json.Marshal(v)
	m[key] = data
	return err
}
