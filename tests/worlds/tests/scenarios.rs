//! Lent pages in all situations: each scenario as a test of its name.

macro_rules! tests {
    ($($name:ident,)+) => {
        $(
            #[test]
            fn $name() {
                worlds::scenarios::$name();
            }
        )+
    };
}

worlds::for_each_scenario!(tests);
