// Package planted has one finding of each kind, and beside it what is excused. The lines that must be found end with the name of the check.
package planted

import (
	"fmt"
	"io"
	"os"
	"strings"
)

func unused() {} // U1000

func Found(w io.WriteCloser) error {
	os.Remove("a") // errcheck
	go w.Close()   // errcheck
	x := "b"
	x = strings.Title("c")           // SA1019
	if strings.Index(x, "d") != -1 { // S1003
		return fmt.Errorf("Capital letters") // ST1005
	}
	return nil
}

func Excused(w io.WriteCloser) error {
	defer w.Close()
	fmt.Fprintln(w, "printed")
	_ = w.Close()
	//lint:ignore ST1005 as upstream says it
	return fmt.Errorf("Capital letters")
}
