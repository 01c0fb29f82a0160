//go:build tools

// Package tools pins a sample plugin of the reference implementation, built by scripts/setup.sh for
// the tests. Later versions keep their samples in modules that no registry has.
package tools

import _ "github.com/containerd/nri/plugins/ulimit-adjuster"
