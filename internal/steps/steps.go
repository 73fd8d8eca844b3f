// Package steps names the moments of an operation at which an agent can be
// stopped, so that a test can stop it at exactly one of them and see what it
// does afterwards. In an ordinary build At does nothing; the tag "steps" makes
// the agent that the lab runs.
package steps
