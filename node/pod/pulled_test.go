package pod

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestPulled: an image is for those that could have pulled it, under the name that they could have pulled, also after the daemon was
// killed at any moment.
func TestPulled(t *testing.T) {
	const image, id = "registry.test/team/app:1", "sha256:aa"
	mine, changed := Auth{Username: "u", Password: "secret-word", Secret: "a/s/1"}, Auth{Username: "u", Password: "other", Secret: "a/s/1"}
	copied, theirs := Auth{Username: "u", Password: "secret-word", Secret: "b/s/2"}, Auth{Username: "v", Password: "x", Secret: "b/t/3"}
	dir := t.TempDir()
	p := &pulled{dir: dir}
	may := func(what, image string, want bool, auths ...Auth) {
		t.Helper()
		for _, p := range []*pulled{p, {dir: dir}} { // this daemon, and the next one
			if got, err := p.may(id, image, auths); err != nil || got != want {
				t.Errorf("%s: %v, %v; want %v", what, got, err, want)
			}
		}
	}
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	may("imported", image, true)
	check(p.intend(image))
	may("killed while it was pulled", image, false)
	check(p.done(image, "", nil))
	may("the pull failed", image, true)
	check(p.intend(image))
	check(p.done(image, id, &mine))
	may("no credentials", image, false)
	may("those that it was pulled with", image, true, mine)
	may("another tag of it", "registry.test/team/app:2", true, mine)
	may("their Secret with another password", image, true, changed)
	may("the same in another Secret", image, true, copied)
	may("others", image, false, theirs)
	may("others first", image, true, theirs, mine)
	may("another name of the image", "registry.test/open/app:1", false, mine)
	may("its id for a name", id, false, mine)
	check(p.done(image, id, &theirs))
	may("others that the registry took", image, true, theirs)
	check(p.done("registry.test/open/app:1", id, nil))
	may("where it was to be had without", "registry.test/open/app:1", true)
	may("that makes the other name no less private", image, false)
	for range maxAccess + 1 {
		check(p.done(image, id, &Auth{Username: "u", Password: t.Name(), Secret: "c/s/" + t.Name()}))
	}
	files := 0
	check(filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		files++
		info, err := e.Info()
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v, %v", path, info.Mode(), err)
		}
		if text, err := os.ReadFile(path); err != nil || strings.Contains(string(text), "secret-word") {
			t.Errorf("%s has a password: %s, %v", path, text, err)
		}
		return nil
	}))
	if files != 1 {
		t.Errorf("%d files for one image", files)
	}

	// An image that was pulled after the list was made is not forgotten, one that is gone is.
	mark := p.mark()
	check(p.done(image, id, &mine))
	check(p.keep(mark, map[string]bool{}))
	may("pulled since", image, false, Auth{Username: "w"})
	check(p.keep(p.mark(), map[string]bool{id: true}))
	may("still there", image, false, Auth{Username: "w"})
	check(p.keep(p.mark(), map[string]bool{}))
	may("gone, and imported again", image, true)

	check(p.done(image, id, &mine))
	check(os.WriteFile(p.recordPath(id), []byte("not json"), 0o600))
	may("a record that cannot be read", image, false, mine)
	check(p.done(image, id, &mine))
	may("and is written anew", image, true, mine)
	if list := latest(nil, "a"); len(list) != 1 {
		t.Errorf("%v", list)
	}
	long := []string{}
	for i := range 2 * maxAccess {
		long = latest(long, strings.Repeat("x", i))
	}
	if len(long) != maxAccess || long[maxAccess-1] != strings.Repeat("x", 2*maxAccess-1) {
		t.Errorf("%d entries", len(long))
	}
}
