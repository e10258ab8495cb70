//! Certificate status × door: who gets in where.
