package planted

import (
	"os"
	"testing"
)

func TestDrops(t *testing.T) {
	os.Remove("a")
	//lint:ignore SA4006
	x := len(t.Name()) // SA4006
	x = 1
	_ = x
}
