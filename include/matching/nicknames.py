"""Short and pet forms of first names: each line is one name in the forms people use for it.

The forms are compared as "nickname", a weaker agreement than the same name. Chosen for the languages of the
practices; a form that belongs to two names (Alex, Chris) stands where it is used most.
"""

from __future__ import annotations

_FORMS = """
abigail abby gail
adelaide heidi addie
agnes agnieszka inez nessie
albert al bert albrecht bertie alberto
alexander alex alec sandy sasha xander alejandro alessandro aleksander aleksandr sascha
alexandra alexa sandra lexi aleksandra
alfred alf fred freddie alfredo
alice ali allie alicia
amanda mandy
andrew andy drew andreas andre anders andrea andrzej
angela angie angelika
ann anna anne annie nancy hannah anita annika anja anni ania
anthony tony anton antonio antoine toni
antonia toni
arthur art artur arturo
barbara barb babs barbie basia
benjamin ben benny benji
bernard bernie bernhard bernardo
beatrice bea trixie beatrix
bridget birgit brigitte biddy gitta gitte
bradley brad
calvin cal
cameron cam
caroline carol carrie karoline carolina karolina line caro
catherine cathy kate katie katherine kathryn kathy kay kit kitty katharina kathrin katrin katja karin karen catalina
    caterina katarina ekaterina katya kasia katarzyna
charles charlie chuck chas karl carl carlos carlo kalle
charlotte lottie lotte charly
christian chris kristian
christina christine chris tina chrissy kristina kristin kristine christa christel krista
christopher chris kit topher christoph kristoffer christoffer cristobal
clara klara claire
claudia klaudia
clement clem clemens klemens
constance connie konstanze
cornelia conny nelly
cynthia cindy
daniel dan danny
daniela dani
david dave davey
deborah deb debbie debra
dennis denny
diana di diane
dominic dom nick dominik
donald don donnie
dorothy dot dottie dolly dorothea dora thea
douglas doug
edward ed eddie ned ted teddy eduard eduardo edgar
edwin ed eddie
eleanor ellie nell nora eleonore lena elena helena ellen helen helene lenka ilona
elizabeth liz lizzie beth betty eliza lisa elsie libby bess elisabeth elise else lisbeth elsa lilly lieschen elzbieta
    isabel isabella isabelle
emily em emmy emilia emma
emmanuel manny manuel emanuel
erich eric erik rick
ernest ernie ernst
eugene gene eugen
evelyn eve evie eva
florence flo florrie
frances fran fanny franziska francesca franzi francisca
francis frank franz francisco francesco paco francois frantisek
frederick fred freddy fritz friedrich frederik federico rick
gabriel gabe
gabriele gabi gaby gabriella
george georgie georg jorge giorgio jurgen jorg jorgen goran jerzy yuri
gerald gerry jerry gerhard gerd gert
geoffrey geoff jeff jeffrey jeffery gottfried
gertrude gert trudy trude gertrud
giovanni gianni john
gregory greg gregor grzegorz
gunter gunther guenter
harold harry hal harald
henry harry hank heinrich heinz henrik hendrik enrique enrico henri hinrich
herbert herb bert
howard howie
hubert hugh hugo
ignatius ignacio nacho ignaz
irene rena irena
isaac ike
jacob jake jakob jacques james jim jimmy jamie jim diego jaime santiago giacomo
jacqueline jackie
jane janet jean joan joanna johanna jenny jana janina hanna juana giovanna
janice jan
jasmine jas yasmin
jennifer jen jenny jenna
jeremy jerry jeremias
jessica jess jessie
john jack johnny jon johan johann johannes hans hannes jan jean juan ivan ian sean evan jens hansi janos
jonathan jon johnny jonny
joseph joe joey josef jose pepe giuseppe beppe jozef sepp jupp
josephine jo josie josefine josefa pepa
joshua josh
joyce joy
judith judy jutta
julia julie juliet juliane giulia
julian jules julius jul
justin jus
kenneth ken kenny
kevin kev
kimberly kim
konrad conrad kurt curt
kristopher kris
lawrence larry laurie laurence lorenz lorenzo lars laurent
leonard leo len lenny leonhard leonardo leon
leopold leo poldi
leslie les
lewis lou louis ludwig luis luigi lutz
lillian lily lil
louise lou luise lulu luisa
lucas luke luca lukas luc
lucy lucia luzie
magdalena lena magda maggie leni
margaret maggie meg peggy marge margie greta daisy madge margarete margarethe margret gretel grete rita margit
    marguerite margarita malgorzata marjorie
maria mary marie molly polly mia mariam miriam mimi moll maren marika masha
marianne annemarie marian mariana
martha marty marta
martin marty martijn marcin
mark marc marcus markus marco marek
mathilda tilly mathilde matilda
matthew matt matty matthias mathias matti mateo matteo matej mateusz mats
maurice morris moritz mauricio
maximilian max massimo maksim maxime maksymilian
melissa mel missy
michael mike mick mickey mikey michel miguel michele mikael mikhail michal misha miko
michelle shelly
mildred millie
mohammed muhammad mohamed mohammad muhammed mehmet mohd
nadine nadia nadja
natalie nat nathalie natalia natascha natasha
nathaniel nathan nate
nicholas nick nicky nicolas nicolaus nikolaus klaus claus niklas nico niko nikolai nikolaj nils niels
nicole nicky nikki
norman norm
oliver ollie olli olivier
olivia livvy liv
oscar oskar
pamela pam
patricia pat patty tricia trish
patrick pat paddy patryk padraig
paul paulo pablo paolo pavel pawel pauli
paula pauline pauli paulina
peter pete pedro pietro piet pierre petr pyotr piotr petter pit
philip phil pip philipp felipe filip filippo philippe
phyllis phyl
priscilla cilla
rachel rae rahel raquel
ralph ralf rolf raoul raul rudolf rudi rudy
raymond ray raimund ramon raimondo
rebecca becky becca rebekka
regina gina reggie
reginald reg reggie reinhold reinhard
renate reni renata
richard rick dick rich richie ricky ricardo riccardo
robert bob bobby rob robbie bert roberto rupert ruprecht robin
roland rolando
ronald ron ronnie
rosemary rose rosie rosemarie rosa rosalie rosina
russell russ rusty
samantha sam sammy
samuel sam sammy
sandra sandy
sarah sally sara sadie
sebastian seb bastian basti
sharon shari
sigmund siegmund sig
silvia sylvia silke sylvie
simon simone
sofia sophie sophia sofie zofia
stanley stan stanislaus stanislaw
stephanie steph steffi stefanie stefania
stephen steve steven stefan steffen stephan esteban stefano stevie etienne
susan sue susie suzanne susanne susanna sanne suse zuzanna
sylvester sly silvester
theodore ted teddy theo theodor
theresa terry tess tessa therese teresa resi
terence terry
thomas tom tommy tomas tomasz tommaso
timothy tim timmy timo timotheus
tobias toby tobi
ulrich uli ulli
ulrike uli ulli rike
ursula ulla uschi ursel
valentin val valentino
vanessa nessa
veronica ronnie vera veronika
victor vic viktor vittorio
victoria vicky viktoria tori
vincent vince vinny vincenzo vinzenz
virginia ginny
vladimir volodya vova wladimir
walter walt wally walther gualtiero
wayne way
werner wernher
wilfred wilf fred wilfried
wilhelmina mina wilma minna helma
william will bill billy willy liam wilhelm willi wim guillermo guglielmo guillaume
winifred winnie
wolfgang wolf wolfi
xavier javier
yvonne evonne yvette
zachary zach zack
"""


def _roots() -> dict[str, str]:
    roots: dict[str, str] = {}
    for line in _FORMS.strip().replace("\n    ", " ").splitlines():
        forms = line.split()
        for form in forms:
            roots.setdefault(form, forms[0])
    return roots


_ROOTS = _roots()


def nickname_root(key: str) -> str:
    """The name that the first word of a name key stands for; the word itself where it stands for no other."""
    first = key.partition(" ")[0]
    return _ROOTS.get(first, first)
