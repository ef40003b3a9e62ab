//! Wire compatibility with the independent bindings of k8s-cri.
