//! The two things an authority has: a key that signs and a certificate that says so.
