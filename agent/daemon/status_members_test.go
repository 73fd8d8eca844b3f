package daemon

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/overspan/overspan/store"
)

func TestMemberIsToldOfOnce(t *testing.T) {
	away := errors.New("away")
	got := etcdMembers([]store.Member{
		{Endpoint: "http://127.0.0.1:2379", ID: 7, Version: "3.7.3", Leader: true},
		{Endpoint: "http://192.0.2.2:2379", Err: away},
		{Endpoint: "http://192.0.2.1:2379", ID: 7, Version: "3.7.3", Leader: true},
		{Endpoint: "http://192.0.2.3:2379", Err: away},
	})
	want := []EtcdMember{
		{Endpoint: "http://127.0.0.1:2379,http://192.0.2.1:2379", Version: "3.7.3", Leader: true},
		{Endpoint: "http://192.0.2.2:2379", Err: away},
		{Endpoint: "http://192.0.2.3:2379", Err: away},
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateErrors()); diff != "" {
		t.Errorf("members (-want +got):\n%s", diff)
	}
}
