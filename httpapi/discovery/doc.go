// Package discovery tells clients which kinds are served: those of the table, and those that are defined.
//
// Its one law: what is told is what is served now. It is made anew when somebody asks and the definitions have changed, so a kind
// can be found with the commit that brings its definition, on every node that has it.
//
// Both forms are upstream's: lists of groups and of resources, and all at once (aggregated). The paths of the table's groups
// and versions are routes of httpapi's own; those of groups that are only defined are found here (State.At).
//
// It starts nothing, and keeps the newest state only.
package discovery
