package ipam

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/overspan/overspan"
)

func TestAnswer(t *testing.T) {
	large := Spec{Subnets: []string{"10.0.0.0/24"}}
	for _, tc := range []struct {
		name  string
		scene scene
		slot  *overspan.Slot
		give  string // "" is a refusal
		keep  []overspan.Range
	}{
		{
			name:  "half of what is free, from the top",
			scene: scene{spec: large, blocks: map[string]string{"8+8": "h1"}},
			give:  "12+4", keep: []overspan.Range{{First: 8, Size: 4}},
		},
		{
			name:  "the largest unused part around what is used",
			scene: scene{spec: large, blocks: map[string]string{"8+8": "h1"}, used: map[overspan.Slot]string{13: "h1"}, held: []overspan.Slot{8}},
			give:  "14+2", keep: []overspan.Range{{First: 8, Size: 4}, {First: 12, Size: 2}},
		},
		{
			name:  "the last free slot",
			scene: scene{spec: large, blocks: map[string]string{"8+2": "h1"}, used: map[overspan.Slot]string{9: "h1"}},
			give:  "8+1", keep: []overspan.Range{{First: 9, Size: 1}},
		},
		{
			name:  "a whole block",
			scene: scene{spec: large, blocks: map[string]string{"8+1": "h1"}},
			give:  "8+1",
		},
		{
			name:  "rather little than what rests",
			scene: scene{spec: large, blocks: map[string]string{"8+8": "h1"}, resting: []overspan.Slot{8, 9, 10, 11, 12, 14, 15}},
			give:  "13+1", keep: []overspan.Range{{First: 8, Size: 4}, {First: 12, Size: 1}, {First: 14, Size: 2}},
		},
		{
			name:  "what rests if there is nothing else",
			scene: scene{spec: large, blocks: map[string]string{"8+2": "h1"}, resting: []overspan.Slot{8, 9}},
			give:  "9+1", keep: []overspan.Range{{First: 8, Size: 1}},
		},
		{
			name:  "nothing that own endpoints wait for",
			scene: scene{spec: large, blocks: map[string]string{"8+2": "h1"}, waiting: 2},
		},
		{
			name:  "what remains behind those",
			scene: scene{spec: large, blocks: map[string]string{"8+8": "h1"}, waiting: 6},
			give:  "14+2", keep: []overspan.Range{{First: 8, Size: 4}, {First: 12, Size: 2}},
		},
		{
			name:  "nothing where all is used or reserved",
			scene: scene{spec: large, blocks: map[string]string{"0+4": "h1"}, used: map[overspan.Slot]string{2: "h1", 3: "h1"}},
		},
		{
			name:  "nothing from outside the range",
			scene: scene{spec: Spec{Subnets: large.Subnets, Ranges: []string{"10.0.0.128/25"}}, blocks: map[string]string{"8+2": "h1"}},
		},
		{
			name:  "one certain slot",
			scene: scene{spec: large, blocks: map[string]string{"8+8": "h1"}, used: map[overspan.Slot]string{9: "h1"}},
			slot:  slot(11), give: "11+1", keep: []overspan.Range{{First: 8, Size: 2}, {First: 10, Size: 1}, {First: 12, Size: 4}},
		},
		{
			name:  "one that rests",
			scene: scene{spec: large, blocks: map[string]string{"8+1": "h1"}, resting: []overspan.Slot{8}},
			slot:  slot(8), give: "8+1",
		},
		{
			name:  "one outside the range, whoever waits",
			scene: scene{spec: Spec{Subnets: large.Subnets, Ranges: []string{"10.0.0.128/25"}}, blocks: map[string]string{"8+1": "h1"}, waiting: 3},
			slot:  slot(8), give: "8+1",
		},
		{
			name:  "not one that is used",
			scene: scene{spec: large, blocks: map[string]string{"8+8": "h1"}, used: map[overspan.Slot]string{9: "h1"}},
			slot:  slot(9),
		},
		{
			name:  "not one that is about to be used",
			scene: scene{spec: large, blocks: map[string]string{"8+8": "h1"}, held: []overspan.Slot{9}},
			slot:  slot(9),
		},
		{
			name:  "not one that own endpoints wait for",
			scene: scene{spec: large, blocks: map[string]string{"8+1": "h1"}, waiting: 1},
			slot:  slot(8),
		},
		{
			name:  "not one of another's",
			scene: scene{spec: large, blocks: map[string]string{"8+8": "h2", "16+8": "h1"}},
			slot:  slot(9),
		},
		{
			name:  "not one that is reserved",
			scene: scene{spec: large, blocks: map[string]string{"0+8": "h1"}},
			slot:  slot(1),
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			v := tc.scene.view(t)
			got, ok := Answer(v, overspan.Want{Holder: "h1", Asker: "h2", Slot: tc.slot})
			if !ok {
				if tc.give != "" {
					t.Errorf("refused, want %s", tc.give)
				}
				return
			}
			if tc.give == "" {
				t.Fatalf("gives %s, want a refusal", got.Give)
			}
			give := block(t, tc.give, "h2").Range
			from, _ := v.Segment.Holder(give.First)
			if diff := cmp.Diff(Grant{From: from, Give: give, Keep: tc.keep}, got); diff != "" {
				t.Errorf("grant (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAnswerOnlyAsHolder(t *testing.T) {
	v := scene{spec: Spec{Subnets: []string{"10.0.0.0/24"}}, blocks: map[string]string{"8+8": "h1"}}.view(t)
	for _, w := range []overspan.Want{{Holder: "h2", Asker: "h3"}, {Holder: "h1", Asker: "h1"}} {
		if g, ok := Answer(v, w); ok {
			t.Errorf("want of %s from %s: gives %s", w.Asker, w.Holder, g.Give)
		}
	}
}

func TestIdle(t *testing.T) {
	spec := Spec{Subnets: []string{"10.0.0.0/24"}, Ranges: []string{"10.0.0.128/25"}}
	blocks := map[string]string{"8+1": "h1", "128+8": "h1", "136+8": "h1", "144+8": "h1", "152+8": "h2"}
	for _, tc := range []struct {
		name  string
		scene scene
		want  []string
	}{
		{
			name:  "all, where nothing is attached",
			scene: scene{spec: spec, blocks: blocks},
			want:  []string{"8+1", "128+8", "136+8", "144+8"},
		},
		{
			name:  "all but one to lend from, where something is",
			scene: scene{spec: spec, blocks: blocks, used: map[overspan.Slot]string{130: "h1"}},
			want:  []string{"8+1", "144+8"},
		},
		{
			name:  "none that is about to be used or rests",
			scene: scene{spec: spec, blocks: blocks, held: []overspan.Slot{8, 130}, resting: []overspan.Slot{150}},
		},
		{
			name:  "none while endpoints wait",
			scene: scene{spec: spec, blocks: blocks, waiting: 1},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var want []overspan.Block
			for _, text := range tc.want {
				want = append(want, block(t, text, "h1"))
			}
			if diff := cmp.Diff(want, Idle(tc.scene.view(t))); diff != "" {
				t.Errorf("idle (-want +got):\n%s", diff)
			}
		})
	}
}
