//go:build !steps

package steps

// At marks a moment.
func At(Moment) {}
