package store

import (
	"bytes"
	"encoding/json"
	"fmt"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/overspan/overspan"
)

// Marshal writes a record as compact JSON, the same bytes for the same message
// in every build. A string that is not UTF-8 is an error of class
// overspan.ErrInvalid.
func Marshal(msg proto.Message) ([]byte, error) {
	loose, err := protojson.Marshal(msg)
	if err != nil {
		return nil, overspan.Errorf(overspan.ErrInvalid, "write %s record: %w", msg.ProtoReflect().Descriptor().Name(), err)
	}
	var out bytes.Buffer
	// protojson varies its white space on purpose.
	if err := json.Compact(&out, loose); err != nil {
		return nil, fmt.Errorf("compact %s record: %w", msg.ProtoReflect().Descriptor().Name(), err)
	}
	return out.Bytes(), nil
}

// mustMarshal writes a record that is made of ids and numbers alone.
func mustMarshal(msg proto.Message) []byte {
	value, err := Marshal(msg)
	if err != nil {
		panic(err)
	}
	return value
}

// Unmarshal reads a record. Fields that this version does not know are left
// out: whoever writes the record again uses Rewrite. The error is of class
// overspan.ErrCorrupt.
func Unmarshal(value []byte, msg proto.Message) error {
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(value, msg); err != nil {
		return overspan.Errorf(overspan.ErrCorrupt, "%s record: %w", msg.ProtoReflect().Descriptor().Name(), err)
	}
	return nil
}

// Rewrite writes a record in the place of an old one and keeps what the old one
// says in fields that this version does not know, also inside nested messages
// and maps of messages. Lists are replaced as a whole. An old value that is not
// a record is an error of class overspan.ErrCorrupt: what it said cannot be kept.
func Rewrite(old []byte, msg proto.Message) ([]byte, error) {
	if err := Unmarshal(old, msg.ProtoReflect().New().Interface()); err != nil {
		return nil, err
	}
	now, err := Marshal(msg)
	if err != nil {
		return nil, err
	}
	return keepUnknown(old, now, msg.ProtoReflect().Descriptor())
}

type object = map[string]json.RawMessage

// keepUnknown adds the unknown fields of one JSON object to another of the same
// message type.
func keepUnknown(old, now json.RawMessage, desc protoreflect.MessageDescriptor) (json.RawMessage, error) {
	if isWellKnown(desc) {
		return now, nil
	}
	var from, to object
	if err := json.Unmarshal(old, &from); err != nil {
		return nil, overspan.Errorf(overspan.ErrCorrupt, "%s record: %w", desc.Name(), err)
	}
	if err := json.Unmarshal(now, &to); err != nil {
		return nil, fmt.Errorf("read back %s record: %w", desc.Name(), err)
	}
	changed := false
	for name, value := range from {
		field := fieldNamed(desc, name)
		if field == nil {
			to[name], changed = value, true
			continue
		}
		at, stays := to[field.JSONName()]
		if !stays {
			continue
		}
		merged, err := keepInField(value, at, field)
		if err != nil {
			return nil, err
		}
		if !bytes.Equal(merged, at) {
			to[field.JSONName()], changed = merged, true
		}
	}
	if !changed {
		return now, nil
	}
	return encode(to)
}

func keepInField(old, now json.RawMessage, field protoreflect.FieldDescriptor) (json.RawMessage, error) {
	switch {
	case field.IsMap() && field.MapValue().Message() != nil:
		return keepInMap(old, now, field.MapValue().Message())
	case field.IsMap(), field.IsList(), field.Message() == nil:
		return now, nil
	}
	return keepUnknown(old, now, field.Message())
}

func keepInMap(old, now json.RawMessage, desc protoreflect.MessageDescriptor) (json.RawMessage, error) {
	var from, to object
	if err := json.Unmarshal(old, &from); err != nil {
		return nil, overspan.Errorf(overspan.ErrCorrupt, "map of %s: %w", desc.Name(), err)
	}
	if err := json.Unmarshal(now, &to); err != nil {
		return nil, fmt.Errorf("read back map of %s: %w", desc.Name(), err)
	}
	for key, at := range to {
		value, was := from[key]
		if !was {
			continue
		}
		merged, err := keepUnknown(value, at, desc)
		if err != nil {
			return nil, err
		}
		to[key] = merged
	}
	return encode(to)
}

// fieldNamed finds a field by either of the names under which protojson reads it.
func fieldNamed(desc protoreflect.MessageDescriptor, name string) protoreflect.FieldDescriptor {
	if f := desc.Fields().ByJSONName(name); f != nil {
		return f
	}
	return desc.Fields().ByTextName(name)
}

// isWellKnown reports whether protojson writes the message in a form of its
// own: a timestamp is a string.
func isWellKnown(desc protoreflect.MessageDescriptor) bool {
	return desc.ParentFile().Package() == "google.protobuf"
}

// encode writes an object with its fields in alphabetical order.
func encode(o object) (json.RawMessage, error) {
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(o); err != nil {
		return nil, fmt.Errorf("encode record: %w", err)
	}
	return bytes.TrimSuffix(out.Bytes(), []byte("\n")), nil
}
