//! Ground-truth tests of kleak.
