// Package vagrant tests what makes machines out of a checkout: the Vagrantfile, as far as vagrant can check one without
// starting anything, and the provisioning script, for real: three nodes in namespaces of their own, on one switch, each
// provisioned by the script from the built programs and with paths of its own.
package vagrant
