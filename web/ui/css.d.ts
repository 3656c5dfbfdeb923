// Style sheets are bundled by being imported (build.mjs).
declare module "*.css";
