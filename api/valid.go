package api

import (
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// valid replaces what is not UTF-8 in m. A process names itself by any bytes
// (prctl(2), PR_SET_NAME), and so does a file; protobuf refuses a message with
// such a string as a whole.
func valid[M proto.Message](m M) M {
	validate(m.ProtoReflect())
	return m
}

func validate(m protoreflect.Message) {
	m.Range(func(field protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case field.IsMap():
			validateMap(v.Map())
		case field.IsList():
			list := v.List()
			for i := range list.Len() {
				list.Set(i, validValue(list.Get(i)))
			}
		default:
			m.Set(field, validValue(v))
		}
		return true
	})
}

// validateMap renames keys, too: two that differ only in bytes that are not
// UTF-8 become one.
func validateMap(m protoreflect.Map) {
	m.Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
		key := validValue(k.Value()).MapKey()
		if key.Value().Interface() != k.Interface() {
			m.Clear(k)
		}
		m.Set(key, validValue(v))
		return true
	})
}

// validValue is v itself unless it is a string that is not UTF-8; a message is
// changed in place.
func validValue(v protoreflect.Value) protoreflect.Value {
	switch x := v.Interface().(type) {
	case protoreflect.Message:
		validate(x)
	case string:
		if !utf8.ValidString(x) {
			return protoreflect.ValueOfString(strings.ToValidUTF8(x, "\uFFFD"))
		}
	}
	return v
}
