//! Makes cargo notice added and removed migration files, which `sqlx::migrate!` cannot see by itself.

fn main() {
    println!("cargo:rerun-if-changed=../migrations");
}
