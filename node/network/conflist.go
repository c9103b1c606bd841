package network

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"murmur/durable"
)

// confName sorts before what others may have left in the directory: the CRI takes the first.
const confName = "10-murmur.conflist"

// conf is the CNI configuration for a plan.
func conf(cfg Config, p Plan) []byte {
	type m = map[string]any
	out, err := json.MarshalIndent(m{
		"cniVersion": "1.0.0",
		"name":       "murmur",
		"plugins": []m{
			{
				"type":         "bridge",
				"bridge":       cfg.Bridge,
				"isGateway":    true,
				"forceAddress": true, // a block may change
				"hairpinMode":  true, // a pod reaches itself through its service
				"ipMasq":       false,
				"mtu":          p.MTU,
				"ipam": m{
					"type":    "host-local",
					"dataDir": cfg.DataDir,
					"ranges":  [][]m{{{"subnet": p.Block.String()}}},
					"routes":  []m{{"dst": "0.0.0.0/0"}},
				},
			},
			{"type": "portmap", "capabilities": m{"portMappings": true}, "snat": true},
		},
	}, "", "  ")
	if err != nil {
		panic(err) // strings and numbers
	}
	return append(out, '\n')
}

// writeConf puts the configuration in place in one step, if it differs from what is there.
func writeConf(cfg Config, p Plan) error {
	want, path := conf(cfg, p), filepath.Join(cfg.ConfDir, confName)
	if have, err := os.ReadFile(path); err == nil && bytes.Equal(have, want) {
		return nil
	}
	if err := os.MkdirAll(cfg.ConfDir, 0o755); err != nil {
		return fmt.Errorf("make the CNI configuration's directory: %w", err)
	}
	// Its name does not end in conf while it is written: the CRI does not look at it.
	if err := durable.Write(path, want, 0o644); err != nil {
		return fmt.Errorf("write the CNI configuration: %w", err)
	}
	return nil
}
