// Package accepted says what becomes of every field that the API accepts.
//
// Its one law: what is accepted is done, on every node; what nothing here does is refused, or who asks for it is told so. A field
// that keeps a pod apart from others and is not kept is always an error.
//
// # The table
//
// A Row says of fields of a kind that somebody acts on them, and which test shows it; that they are kept for others; that who sets them
// is warned; or that they are refused, and by whom. A row speaks of all that is below its paths, unless a longer path has a row of its
// own. Pod templates and the like are told once (mounts). Files are named rows_*.go by what the kinds are for.
//
// Tests keep the table: each leaf of the types of all kinds has a row and a line in testdata/fields, so a field that upstream adds fails
// until somebody has looked; no row speaks of a field that is not there; packages and tests that rows name exist, and the test of a field that
// is acted on says it. README's list of what
// is not there is made of it.
//
// # How a write goes
//
// The plugin stands in the chain of admission after all others that are built in. When the table is compiled the paths of rows that say
// something become a tree of field indexes over the internal types, so a write costs one walk along them, and no allocation if nothing is
// found. What is found and was not there before becomes a Warning header, or the error. What upstream's feature gates make the API drop is
// looked for before it is dropped. A new pod gets an Event, too (event.go): its maker may be a controller, which reads no headers.
//
// # What it does not do
//
// It knows no objects but the one that is written: what depends on others is for the parts that act. It starts nothing.
//
// # How to look inside
//
// testdata/fields is the table by field. docs/adr/0031 says how it is kept.
package accepted
