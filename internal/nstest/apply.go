package nstest

import (
	"context"
	"fmt"

	"github.com/overspan/overspan/kernel"
)

// Apply brings a planned state into the namespace's kernel, as the reconciler
// would, and fails the test unless the kernel then has no drift from it.
func (ns *Namespace) Apply(scope kernel.Scope, want kernel.State) {
	ns.t.Helper()
	for path := range want.Sysctls {
		scope.Sysctls = append(scope.Sysctls, path)
	}
	ns.Do(func() error {
		host, err := kernel.NewHost(kernel.HostConfig{NetnsDir: ns.t.TempDir()})
		if err != nil {
			return err
		}
		defer host.Close()
		ctx := context.Background()
		have, err := host.Read(ctx, scope)
		if err != nil {
			return err
		}
		if err := host.Apply(ctx, kernel.Diff(have, want)); err != nil {
			return err
		}
		if have, err = host.Read(ctx, scope); err != nil {
			return err
		}
		if drift := kernel.Diff(have, want); len(drift) > 0 {
			return fmt.Errorf("drift after all was applied: %v", drift)
		}
		return nil
	})
}
