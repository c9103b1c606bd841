// Command conformance runs upstream's end-to-end suite against a lab of real nodes and says where we stand.
//
// It is a module of its own, so that nothing of the suite reaches the product, and nothing in the product knows of the
// suite: the test program, agnhost and ginkgo are built from upstream's module, at the version that we serve.
//
// # What it does
//
//	conformance build     build the suite and the programs of its images into the cache
//	conformance images    make the images it uses, named as it names them, into one archive
//	conformance run       the two above if needed, a lab, the suite in it, and the lab's end
//	conformance registry  serve that archive as the registry whose names the images have; run does
//	conformance report    write docs/CONFORMANCE.md from the results that the cache keeps
//
// What was built is used again; a file that is there is not made twice. `make conformance` does run.
//
// # Images
//
// Nothing is pulled from outside. The suite's list of images (--list-images) is taken literally: for each one of which recipe.go knows what
// is in it, an image is made of that name, on a userland of busybox and packages of Debian (debian.go), as layers that
// images share (image.go). A spec that needs another image fails, and says so. Nodes have them before the suite starts; where a
// pod pulls always, the registry that it asks is a mirror in the lab that has the same ones (registry.go).
//
// # Results
//
// Each run leaves a folder with ginkgo's report, JUnit, the suite's output and the nodes' logs. report takes for each spec
// the newest result that any run has, and the cause from causes.txt for those that fail.
package main
