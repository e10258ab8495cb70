//! Where everything lies in the store.
